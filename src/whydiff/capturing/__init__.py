"""From a program to a trace: what a framework runs, recorded event by event, live or on disk.

The room is not called ``capture`` because `whydiff.capture` is the public function, and a package of that name
would take its place as soon as anything below it is imported (``docs/decisions/0003``).
"""
