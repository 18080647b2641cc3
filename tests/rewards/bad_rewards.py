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


async def coroutine(prompt, response, context):
    return [0.0 for _ in response]


def generator(prompt, response, context):
    yield 0.0


def leaves(prompt, response, context):
    raise SystemExit(0)


def texts(prompt, response, context):
    return ["1" for _ in response]


def huge(prompt, response, context):
    return [10**400 for _ in response]
