"""Connections between two processes: messages in order, until one of them is gone."""

from functools import partial

KEEPALIVE_S = 15.0  # silence after which a connection counts as broken: see CHANNEL_OPTIONS
_IN_TURN_S = 1e-6  # timers of the same time go off in any order


class Connection:
    """Messages in order, both ways. The client is end 0, the server end 1."""

    def __init__(self, network, client, server):
        self._network, self.ends = network, (client, server)
        self._due_s = [0.0, 0.0]
        self._held = []  # arrived while cut
        self._gone = set()  # ends that have closed
        self._told = set()  # ends that know that it is over
        self._silent_s = 0.0
        self.on_message = [None, None]
        self.on_break = [None, None]
        for number, process in enumerate(self.ends):
            process.on_death.append(partial(self._died, number))

    def _died(self, number, process):
        self.close(number)

    def send(self, number, message):
        """From an end to the other."""
        if self._told or self._gone:
            return
        loop, other = self._network.loop, 1 - number
        due_s = loop.time() + self._network.delay_s()
        self._due_s[other] = max(self._due_s[other] + _IN_TURN_S, due_s)
        arrive = partial(self._arrive, other, partial(self._deliver, other, message))
        loop.call_at(self._due_s[other], arrive, context=self._network.context)

    def close(self, number):
        """An end wants no more of it."""
        if number in self._told:
            return
        self._told.add(number)
        self._gone.add(number)
        other = 1 - number
        tell = partial(self._arrive, other, partial(self._break, other))
        self._network.later(self._network.delay_s(), tell)

    def flush(self):
        if not self._network.is_cut(*self.ends):
            held, self._held = self._held, []
            for act in held:
                act()

    def look(self, passed_s):
        """Silence for too long breaks it."""
        is_silent = self._network.is_cut(*self.ends) or any(end.is_stopped for end in self.ends)
        self._silent_s = self._silent_s + passed_s if is_silent else 0.0
        if self._silent_s > KEEPALIVE_S:
            self._break(0)
            self._break(1)

    def _arrive(self, number, act):
        if self._network.is_cut(*self.ends):
            self._held.append(act)
        else:
            act()

    def _deliver(self, number, message):
        if number not in self._told and self.on_message[number] is not None:
            self.ends[number].call_soon(self._hand_over, number, message)

    def _hand_over(self, number, message):
        if number not in self._told:
            self.on_message[number](message)

    def _break(self, number):
        if number not in self._told:
            self._told.add(number)
            if self.on_break[number] is not None:
                self.ends[number].call_soon(self.on_break[number])
        if len(self._told) == 2:
            self._network.forget(self)
