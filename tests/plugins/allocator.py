"""An allocator of one's own: every group keeps the same fraction, the largest that is within the budget."""

from edakari.core.settings import Count, settings
from edakari.core.space import legal_sizes
from edakari.errors import InfeasibleBudget
from edakari.solve.spend import used_up


@settings
class SameFraction:
    """Try fractions from 1 down in equal steps; what is left of the budget goes where it is worth most."""

    steps: Count = 100

    def allocate(self, groups, values, limits):
        for step in range(self.steps, -1, -1):
            sizes = {
                group.name: min(legal_sizes(group), key=lambda size: (abs(size - group.size * step / self.steps), size))
                for group in groups
            }
            if limits.excess(sizes) <= 0:
                return used_up(groups, values, limits, sizes)
        least = {cost.name: cost.total(sizes) for cost, _ in limits.terms}
        raise InfeasibleBudget(f"no fraction is within the budget: {limits.describe(sizes)}", least)
