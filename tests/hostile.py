"""Texts that would break out of a page, steer a terminal or stop a parser, if anything let them."""

HOSTILE = [
    "</script>", "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "<!--", "]]>", "{{", "&lt;",
    "\u202e", "\x00", "\u2028", "\n", '"', "'", "`", "\ud800", "$$x$$", "@value", "-->", "</style>", "", " ",
    "a" * 5000, "\u200b", "\u0301", "שלום", "<", "&", "\\u003c",
]  # fmt: skip
