"""What every room stands on: the error for a user's mistake, writes that are all or nothing, memory and machine.

May import: no other room. A helper belongs here when several floors need it and it knows nothing of the method.
"""
