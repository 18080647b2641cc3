"""What is fitted: the reference, the value V(x), advantages, and the policy, offline or by PPO, with its validation.

May import: base to models, rewards, algorithms. A new way of training that the loop cannot express is a module here.
"""
