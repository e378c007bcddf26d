"""The most memory that the values between the layers take at once."""

from collections import defaultdict

from visiontool.cost.network import ELEMENTWISE, Network

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")


def peak_bytes(network: Network) -> int | None:
    """The peak over all nodes of what is alive while a node runs; None where a shape is not known."""
    end = len(network.nodes)
    last_use = {name: number for number, node in enumerate(network.nodes) for name in network.varying_inputs(node)}
    last_use[network.logits] = end
    place = {network.picture: 0}  # value -> the buffer that it lies in
    sizes = [network.shapes.size_bytes(network.picture)]
    needed_until = [last_use.get(network.picture, 0)]  # for each buffer the last node that takes a value in it
    made = defaultdict(list, {0: [0]})  # number of a node -> buffers that it makes
    for number, node in enumerate(network.nodes):
        inputs = network.varying_inputs(node)
        for output in node.output:
            if output not in network.varying:
                continue
            size = network.shapes.size_bytes(output)
            until = last_use.get(output, number)
            reused = None
            if node.op_type in _VIEWS:
                reused = place[inputs[0]]
            elif node.op_type in ELEMENTWISE:
                dying = (place[name] for name in inputs if needed_until[place[name]] == number)
                reused = next((buffer for buffer in dying if sizes[buffer] == size), None)
            if reused is None:
                place[output] = len(sizes)
                made[number].append(len(sizes))
                sizes.append(size)
                needed_until.append(until)
            else:
                place[output] = reused
                needed_until[reused] = max(needed_until[reused], until)
    if None in sizes:
        return None
    freed = defaultdict(list)
    for buffer, number in enumerate(needed_until):
        freed[number].append(buffer)
    alive = peak = 0
    for number in range(end):
        alive += sum(sizes[buffer] or 0 for buffer in made[number])
        peak = max(peak, alive)
        alive -= sum(sizes[buffer] or 0 for buffer in freed[number])
    return peak
