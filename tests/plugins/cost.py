"""A cost of one's own: energy from a table, in pJ for a multiply-accumulate of an operator and for a value written."""

from edakari.cost import Count

TABLE = {"aten.convolution": 4.6, "aten.conv2d": 4.6, "aten.linear": 9.2, "aten.addmm": 9.2}
OTHERS, WRITTEN = 6.0, 640.0


def energy(graph):
    terms = []
    for index, operator in enumerate(graph.operators):
        each, around = TABLE.get(operator.name, OTHERS), graph.enclosing_branches(index)
        terms += [(each * constant, (*layouts, *around)) for constant, layouts in operator.macs]
        if operator.macs:
            terms.append((WRITTEN, (*operator.outputs[0], *around)))
    return Count("energy", "pJ", tuple(terms))
