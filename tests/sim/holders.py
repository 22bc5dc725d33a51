"""Who holds an expert, and since when it would have answered: what the session cannot know."""

INFINITY = float("inf")


class Stretches:
    """When something was so."""

    def __init__(self):
        self.all = []  # [from, until], in order; the last may last

    def note(self, now_s, *, is_so):
        was_so = bool(self.all) and self.all[-1][1] == INFINITY
        if is_so and not was_so:
            self.all.append([now_s, INFINITY])
        elif was_so and not is_so:
            self.all[-1][1] = now_s


class Holders:
    """The shards of one topology, as the network and the frames of adoption show them."""

    def __init__(self, world, topology):
        self._world, self._by_layer = world, topology.placement.by_layer
        self._sound = {shard: Stretches() for shard in topology.shards}
        self._down = {shard: Stretches() for shard in topology.shards}
        self._kept = {}  # stretches by (layer, expert), then by shard
        self._kept_now = dict.fromkeys(topology.shards, frozenset())
        self._told = dict.fromkeys(topology.shards, frozenset())  # to the gateway
        for shard in topology.shards:
            self.note_link(shard, is_up=False)

    def note_sound(self, shard, *, is_sound):
        """Whether it can be asked now, and would answer soon."""
        self._sound[shard].note(self._world.time_s, is_so=is_sound)

    def note_link(self, shard, *, is_up):
        """The gateway was told that a link stands, or has broken."""
        self._down[shard].note(self._world.time_s, is_so=not is_up)
        if not is_up:
            self.note_told(shard, frozenset())

    def note_told(self, shard, experts):
        """The gateway was told that a shard holds these for others: (layer, expert)."""
        self._told[shard] = experts

    def note_kept(self, shard, experts):
        """A shard that is connected holds these, because the controller wants it to."""
        before, self._kept_now[shard] = self._kept_now[shard], experts
        for expert in before ^ experts:
            by_shard = self._kept.setdefault(expert, {})
            stretches = by_shard.setdefault(shard, Stretches())
            stretches.note(self._world.time_s, is_so=expert in experts)

    def holds(self, shard, layer, expert):
        """As far as the gateway was told."""
        return (layer, expert) in self._told[shard] or shard in self._by_layer[layer][expert]

    def answers_by(self, layer, expert, begun_s, window_s):
        """The first moment by which one of its holders has been sound for a whole window.

        An adopter counts while it is needed: while all links to the expert's own place are down.
        """
        placed = self._by_layer[layer][expert]
        down = [self._down[shard].all for shard in placed]
        adopters = self._kept.get((layer, expert), {}).items()
        ways = [[self._sound[shard].all] for shard in placed]
        ways += [[self._sound[shard].all, held.all, *down] for shard, held in adopters]
        return min(first_window(way, begun_s, window_s) for way in ways)


def first_window(lists, begun_s, window_s):
    """The end of the first window since ``begun_s`` in which all lists of stretches hold."""
    common = [(begun_s, INFINITY)]
    for stretches in lists:
        pairs = [(max(a, c), min(b, d)) for a, b in common for c, d in stretches]
        common = sorted(pair for pair in pairs if pair[0] + window_s <= pair[1])
    return common[0][0] + window_s if common else INFINITY
