"""PodDisruptionBudgets, as shields of the core: which of them cover whom, and what they allow.

A plain table without I/O. Promises: only budgets that cover a placed job are told, and only what
may change a decision: a number that falls to few at once, any other change once a second at most,
nothing beyond what could ever be asked of it; a job under several budgets on one pod, which the API
server never evicts, is told as held for good. Who was asked and held by the API server, whatever
the budget looked like from here, is told as held for `REFUSED_S`.

`allowed` as the core wants it: what the budget's controller says, and as many more as we have
taken away already and are still leaving.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from madang.core.events import Fact, JobShielded, ReleaseHeld, SettingDropped, ShieldSet
from madang.core.settings import Shield
from madang.engines.kubernetes.cache import ALLOCATION, Cache, PodNews
from madang.engines.kubernetes.podspec import selects
from madang.engines.kubernetes.stays import Stay, Stays
from madang.engines.kubernetes.values import BudgetFacts, Pairs, PodFacts

BY = "kubernetes"
KIND = "shields"  # of `core.settings.KINDS`
HELD = "held:"  # before the job that the API server held, in place of a budget's key
SOON_S = 1.0  # what need not be told at once is told together
FEW = 64  # a budget that allows more is not near its end
REFUSED_S = 30.0  # whom the API server held is not asked again so soon
KNOWN_MAX = 20_000  # distinct labels whose budgets are remembered
TOLD_MAX = 100_000  # jobs of which it is remembered what covers them, ended ones among them

By = tuple[tuple[str, int], ...]


@dataclass(slots=True)
class _Refusal:
    """Somebody was held although the core had thought that he might go."""

    shield: Shield
    until_s: float


@dataclass(slots=True)
class Shields:
    """`tell` hears of facts in their order; `now_s` is monotonic."""

    cache: Cache
    stays: Stays
    tell: Callable[[Fact], None]
    now_s: Callable[[], float]
    _budgets: dict[str, BudgetFacts] = field(default_factory=dict)
    _inside: dict[str, dict[str, None]] = field(default_factory=dict)  # namespace → budgets
    _over: dict[tuple[str, Pairs], tuple[str, ...]] = field(default_factory=dict)
    _under: dict[str, dict[str, int]] = field(default_factory=dict)  # shield → stay → members
    _by: dict[str, By] = field(default_factory=dict)  # stay → what covers it
    _told: dict[str, Shield] = field(default_factory=dict)
    _told_by: dict[str, By] = field(default_factory=dict)  # job → as told; none if it is not here
    _refusals: dict[str, _Refusal] = field(default_factory=dict)  # by job
    _late: dict[str, None] = field(default_factory=dict)  # shields to be looked at soon
    _late_s: float = 0.0  # since when the first of them waits

    def recall(self, told: Mapping[str, Shield], jobs: Mapping[str, By]) -> None:
        """What the core has from before, and of which live jobs."""
        self._told, self._told_by = dict(told), dict(jobs)
        for key in told:
            self._is_late(key)

    def look(self, budgets: Iterable[str], pods: Iterable[PodNews]) -> None:
        """Take in which budgets changed, and pods; tell what follows."""
        changed = list(budgets)
        dirty: dict[str, None] = {}
        moved = {namespace for key in changed for namespace in self._take_in(key)}
        if moved:
            self._over.clear()
            dirty |= dict.fromkeys(self._placed_in(moved))
        for news in pods if self._inside or self._by else ():
            pod = news.pod
            id = pod.annotation(ALLOCATION)
            if id and (pod.namespace in self._inside or id in self._by):
                dirty[id] = None
        for id in dirty:
            self._look_at(id)
        for key in changed:
            budget, told = self._budgets.get(key), self._told.get(key)
            if budget is not None and told is not None and budget.allowed >= told.allowed:
                self._is_late(key)  # one that covers many changes with each of them
            else:
                self._look_at_shield(key)
        if self._late and self.now_s() - self._late_s >= SOON_S:
            self._tell_late()

    def forget(self, stay: Stay) -> None:
        """It is over: what it left behind counts as down from now on."""
        keys = [key for key, _ in self._by.get(stay.id, ())]
        self._by_is(stay, ())
        for key in keys if stay.stop is not None else ():
            self._look_at_shield(key)

    def look_at_all(self) -> None:
        """Every stay anew: those that were taken over are told of, also that nothing covers them
        any more."""
        for key in list(self.cache.budgets.objects):
            self._take_in(key)
        for id in list(self.stays.live):
            self._look_at(id)

    def covers(self, pod: PodFacts) -> bool:
        """True iff some budget covers it."""
        return bool(self._budgets_over(pod))

    def held(self, stay: Stay, text: str) -> None:
        """The API server let none of its pods go, and its stop was taken back."""
        over = [id for id, _ in self._by.get(stay.id, ()) if not id.startswith(HELD)]
        by = ", ".join(over)
        words = f"budget {by} holds it: {text}" if by else f"a budget holds it: {text}"
        shield = Shield(f"{HELD}{stay.job}", 0, words)
        self._refusals[stay.job] = _Refusal(shield, self.now_s() + REFUSED_S)
        self._look_at(stay.id)
        self.tell(ReleaseHeld(stay.id, words))

    def tick(self) -> None:
        """Let those be asked again who were held long enough ago; tell what has waited."""
        now_s = self.now_s()
        over = [job for job, one in self._refusals.items() if now_s >= one.until_s]
        for job in over:
            del self._refusals[job]
        for stay in list(self.stays.live.values()) if over else ():
            if stay.job in over:
                self._look_at(stay.id)
        if self._late and now_s - self._late_s >= SOON_S:
            self._tell_late()

    # -- who is covered ------------------------------------------------------------------------

    def _take_in(self, key: str) -> list[str]:
        """The namespace whose pods may be covered by others now, if there is one."""
        before, now = self._budgets.get(key), self.cache.budgets.objects.get(key)
        one = now or before
        if one is None:
            return []
        if now is None:
            del self._budgets[key]
            inside = self._inside[one.namespace]
            inside.pop(key, None)
            if not inside:
                del self._inside[one.namespace]
            return [one.namespace]
        self._budgets[key] = now
        self._inside.setdefault(now.namespace, {})[key] = None
        return [] if before is not None and before.selector == now.selector else [now.namespace]

    def _placed_in(self, namespaces: set[str]) -> list[str]:
        return [
            stay.id
            for stay in self.stays.live.values()
            if any(one.pod and one.pod.namespace in namespaces for one in stay.members.values())
        ]

    def _budgets_over(self, pod: PodFacts) -> tuple[str, ...]:
        inside = self._inside.get(pod.namespace)
        if not inside:
            return ()
        found = self._over.get((pod.namespace, pod.labels))
        if found is None:
            labels = dict(pod.labels)
            found = tuple(
                sorted(key for key in inside if selects(self._budgets[key].selector, labels))
            )
            if len(self._over) >= KNOWN_MAX:
                self._over.clear()
            self._over[pod.namespace, pod.labels] = found
        return found

    def _look_at(self, id: str) -> None:
        """Who covers its pods now."""
        stay = self.stays.live.get(id)
        if stay is None:
            return
        if not all(one.pod is not None or one.ended for one in stay.members.values()):
            return  # it does not run yet, or is being made whole again
        by = self._by_of(stay)
        is_new = self._by.get(id, ()) != by
        if is_new:
            self._by_is(stay, by)
        for key, _ in by:
            if key not in self._told or (stay.stop is not None and not is_new):
                self._look_at_shield(key)
            elif is_new:
                self._is_late(key)
        self._tell_by(stay.job, by)

    def _by_of(self, stay: Stay) -> By:
        covered: dict[str, int] = {}
        for member in stay.members.values():
            if member.pod is not None and (over := self._budgets_over(member.pod)):
                key = "+".join(over)
                covered[key] = covered.get(key, 0) + 1
        if (refusal := self._refusals.get(stay.job)) is not None:
            covered[refusal.shield.id] = len(stay.members)
        return tuple(sorted(covered.items()))

    def _tell_by(self, job: str, by: By) -> None:
        if self._told_by.get(job, ()) == by:
            return
        self._told_by.pop(job, None)
        if by:
            self._told_by[job] = by
        if len(self._told_by) > TOLD_MAX:
            del self._told_by[next(iter(self._told_by))]
        self.tell(JobShielded(job, by))

    def _by_is(self, stay: Stay, by: By) -> None:
        for key, _ in self._by.pop(stay.id, ()):
            under = self._under[key]
            del under[stay.id]
            if not under:
                del self._under[key]
            self._is_late(key)
        if by:
            self._by[stay.id] = by
        for key, members in by:
            self._under.setdefault(key, {})[stay.id] = members

    # -- what they allow -----------------------------------------------------------------------

    def _look_at_shield(self, key: str) -> None:
        """Tell at once what keeps somebody from being stopped in vain, the rest soon."""
        now, told = self._shield(key), self._told.get(key)
        if now is None or now == told:
            return
        falls = told is not None and now.allowed < told.allowed
        if told is None or (falls and now.allowed < FEW) or now.why != told.why:
            self._told[key] = now
            self.tell(ShieldSet(now))
        else:
            self._is_late(key)

    def _is_late(self, key: str) -> None:
        if not self._late:
            self._late_s = self.now_s()
        self._late[key] = None

    def _tell_late(self) -> None:
        late, self._late = self._late, {}
        for key in late:
            now, told = self._shield(key), self._told.get(key)
            if now is None and told is not None:
                del self._told[key]
                self.tell(SettingDropped(KIND, key, BY))
            elif now is not None and now != told:
                self._told[key] = now
                self.tell(ShieldSet(now))

    def _shield(self, key: str) -> Shield | None:
        """As the core is to see it; None if it covers nobody who is placed."""
        under = self._under.get(key)
        if not under:
            return None
        for id in under:
            stay = self.stays.live.get(id)
            refusal = self._refusals.get(stay.job) if stay is not None else None
            if refusal is not None and refusal.shield.id == key:
                return refusal.shield
            break
        budget = self._budgets.get(key)
        if budget is None and "+" not in key:
            return None  # it is about to be told that it covers nobody
        if budget is None:
            names = key.replace("+", " and ")
            why = f"budgets {names} cover one pod, and the API server evicts none that two cover"
            return Shield(key, 0, why)
        allowed = budget.allowed + sum(self._leaving(key, id) for id in under)
        return Shield(key, max(0, min(allowed, sum(under.values()))))

    def _leaving(self, key: str, id: str) -> int:
        """Pods of a stay that was asked to end which the budget counts as down by now."""
        stay = self.stays.live.get(id)
        if stay is None or stay.stop is None:
            return 0
        return sum(
            member.pod is not None
            and member.pod.deleting
            and not member.ended
            and key in self._budgets_over(member.pod)
            for member in stay.members.values()
        )
