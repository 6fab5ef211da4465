"""One file per reporter; files that start with an underscore build what all of them show."""
