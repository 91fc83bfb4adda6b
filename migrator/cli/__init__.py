"""The command line: words in, text or JSON out, an exit status that scripts can rely on."""
