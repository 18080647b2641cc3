"""What every room stands on: the errors that are no bug of ours, writes that are all or nothing, peak memory.

May import: no other room. A helper belongs here when several floors need it and it knows nothing of the method.
"""
