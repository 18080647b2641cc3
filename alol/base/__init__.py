"""What every room stands on: errors that are no bug of ours, writes that are all or nothing, unfinished work.

May import: no other room. A helper belongs here when several floors need it and it knows nothing of the method.
"""
