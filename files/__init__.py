"""Files as the user has them: never destroyed, never half written, and named so that a terminal can show the name.

outputs     may a command write where it was told to
marks       how a file says that it was made here
writing     a file appears whole or not at all
names       a name, or any text, as it is printed

Only the standard library is imported here: every other package may use it.
"""
