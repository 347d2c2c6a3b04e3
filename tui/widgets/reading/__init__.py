"""Text as rows of a screen: `segments` cuts what streams in, `markdown` makes lines of it, `rows`
wraps and styles them. Plain functions; nothing here knows a widget."""
