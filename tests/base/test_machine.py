"""What a run was computed on is said with its accelerator."""

from alol.base import machine


def test_an_accelerator_is_named_beside_the_processor_and_only_once():
    (processor,) = {machine.used({"device": "cpu"})["device"]}
    plain = machine.words([processor])
    assert plain == machine.words()
    assert plain.startswith(f"{processor}, ")
    assert machine.words([processor, "A GPU", "A GPU"]) == f"A GPU, {plain}"
