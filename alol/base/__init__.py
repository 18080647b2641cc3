"""What every room stands on: the error that means a user's mistake, writes that are all or nothing, unfinished work.

May import: no other room. A helper belongs here when several floors need it and it knows nothing of the method.
"""
