"""From a Diagnosis (or a study's result) to what people read: one reporter per file.

`base`, `blocks` and `words` are shared: studies use them too.
"""

SHARED = ("base", "blocks", "words")
