"""A plan as text for people and as JSON for programs.

`text` is the report of one model, `overview` the table of several, `json` either for programs,
`emit/` the plan as other programs take it; `advice` is what else would help, `receipt` what a load
took, `losses` what was measured of caches.

Nothing is imported here: each is asked for by its own command.
"""
