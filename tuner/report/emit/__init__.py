"""A plan as another program takes it: its command, its code or its settings.

`programs` has their names, `targets` what each prints, from what `carried` has. A new program is a
name, a row of `TARGETS` and a module that writes down what it can be told.

Nothing is imported here: the command line names the programs, and writes for none.
"""
