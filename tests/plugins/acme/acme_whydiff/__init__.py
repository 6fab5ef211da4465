"""Parts for whydiff."""
