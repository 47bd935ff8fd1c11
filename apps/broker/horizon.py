"""Who pins the horizon of transaction ids: what was deleted since then stays in the tables and indexes, whatever VACUUM
does, and everything that reads them gets slower.

Postgres keeps what any transaction, prepared transaction, replication slot or standby may still want to see. Nothing
here is a promise of the broker's: it goes on, only slower, so this tells of it in time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

LIMIT_SECONDS = 600.0  # after which somebody is to be told; the setting MSGWEB_HORIZON_SECONDS

#: One row for each holder, the oldest first: kind, name, key (changes when it lets go and takes hold again),
#: application, user, state, seconds (None: only time can tell), transactions. Costs a row for each connection, prepared
#: transaction and slot. Who may not see others (pg_read_all_stats) still sees process, user, application and ids.
#: Left out: other databases, VACUUM, and those that help a parallel query.
QUERY = """
SELECT * FROM (
    SELECT CASE WHEN a.backend_type = 'walsender' THEN 'standby' ELSE 'transaction' END AS kind, a.pid::text AS name,
           concat_ws(' ', a.backend_xid, a.backend_xmin) AS key, coalesce(a.application_name, '') AS application,
           coalesce(a.usename, '') AS user, coalesce(a.state, '') AS state,
           extract(epoch FROM clock_timestamp() - CASE
               WHEN a.backend_type = 'walsender' THEN NULL
               WHEN a.state = 'active' AND a.backend_xid IS NULL THEN a.query_start
               ELSE a.xact_start END)::float8 AS seconds,
           greatest(age(a.backend_xid), age(a.backend_xmin)) AS transactions
    FROM pg_stat_activity a
    WHERE (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL) AND a.pid <> pg_backend_pid()
      AND coalesce(a.datname = current_database(), true) AND a.leader_pid IS NULL
      AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
      AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
    UNION ALL
    SELECT 'prepared transaction', p.gid, p.transaction::text, '', p.owner, '',
           extract(epoch FROM clock_timestamp() - p.prepared)::float8, age(p.transaction)
    FROM pg_prepared_xacts p WHERE p.database = current_database()
    UNION ALL
    SELECT 'replication slot', s.slot_name, concat_ws(' ', s.xmin, s.catalog_xmin), coalesce(s.plugin, ''), '',
           CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL, greatest(age(s.xmin), age(s.catalog_xmin))
    FROM pg_replication_slots s WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
) AS holder ORDER BY transactions DESC LIMIT 20
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who pins it.

    Attributes:
        kind: `transaction`, `prepared transaction`, `replication slot` or `standby`.
        name: the process id on the server, the global id of the prepared transaction, the name of the slot.
        application, user, state: empty where they cannot be seen.
        seconds: for how long, as far as that is known.
        transactions: how many have begun since.
    """

    kind: str
    name: str
    application: str
    user: str
    state: str
    seconds: float
    transactions: int

    @property
    def who(self) -> str:
        """Who it is, in words."""
        what = {"transaction": "the transaction of process", "standby": "the standby of process"}.get(
            self.kind, f"the {self.kind}"
        )
        about = [self.application, f"user {self.user}" if self.user else "", self.state]
        return f"{what} {self.name} ({', '.join(one for one in about if one) or 'no more can be seen'})"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        quoted = self.name.replace("'", "''")
        match self.kind:
            case "prepared transaction":
                return f"COMMIT PREPARED '{quoted}' or ROLLBACK PREPARED '{quoted}'"
            case "replication slot":
                return f"let its reader catch up, or SELECT pg_drop_replication_slot('{quoted}')"
            case "standby":
                return "end the long query on the standby (hot_standby_feedback), or switch that off"
        if self.state.startswith("idle in transaction"):
            return f"SELECT pg_terminate_backend({quoted}); idle_in_transaction_session_timeout ends such by itself"
        return f"let it end, or SELECT pg_terminate_backend({quoted})"

    def as_json(self) -> dict[str, Any]:
        """For the details of a session."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Horizon:
    """How it stands.

    Attributes:
        seconds, transactions: the age of the oldest; 0 where nobody pins it.
        alarming: who has pinned it for longer than the limit, the longest first.
    """

    seconds: float = 0.0
    transactions: int = 0
    alarming: tuple[Holder, ...] = ()


class Memory:
    """What one look after the other tells: for how long a holder has been there, also where Postgres does not say.

    Args:
        limit: in seconds; see `Horizon.alarming`.
    """

    def __init__(self, limit: float = LIMIT_SECONDS) -> None:
        self._limit = limit
        self._since: dict[tuple[str, str, str], float] = {}

    def read(self, rows: Sequence[tuple[Any, ...]], now: float) -> Horizon:
        """What the rows of `QUERY` say at a moment of a monotonic clock."""
        self._since = {key: self._since.get(key, now) for key in ((row[0], row[1], row[2]) for row in rows)}
        holders = [
            Holder(kind, name, application, user, state, max(seconds or 0.0, now - self._since[kind, name, key]), ids)
            for kind, name, key, application, user, state, seconds, ids in rows
        ]
        holders.sort(key=lambda one: -one.seconds)
        return Horizon(
            max((one.seconds for one in holders), default=0.0),
            max((one.transactions for one in holders), default=0),
            tuple(one for one in holders if one.seconds >= self._limit),
        )


def told_by(sessions: Iterable[Any]) -> list[Holder]:
    """The holders that sessions tell of in their details (`Holder.as_json`), each once, the longest first. What another
    version of this code says is passed over."""
    names = set(Holder.__slots__)
    longest: dict[tuple[str, str], Holder] = {}
    for told in sessions:
        for one in told if isinstance(told, list) else ():
            if isinstance(one, dict) and set(one) == names:
                holder = Holder(**one)
                known = longest.get((holder.kind, holder.name))
                if known is None or known.seconds < holder.seconds:
                    longest[holder.kind, holder.name] = holder
    return sorted(longest.values(), key=lambda one: -one.seconds)
