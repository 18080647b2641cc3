"""Reward functions that break the contract, each in its own way."""


def nan(prompt, response, context):
    return [float("nan")] * len(response)


def too_few(prompt, response, context):
    return [0.0] * (len(response) - 1)


def too_high(prompt, response, context):
    return [1.5] * len(response)


def crash(prompt, response, context):
    raise KeyError("knowledge")


def wrong_signature(text):
    return [0.0]


def constant(prompt, response, context):
    return [0.0] * len(response)
