"""What esearch, epost and efetch answer from a set of records, within NCBI's real limits.

After "The E-utilities In-Depth" (https://www.ncbi.nlm.nih.gov/books/NBK25499/) and what clients
have met: PubMed lists the first 9,999 hits of a query and no more, efetch reads a history no
further either, and errors come inside a 200 as well as with a 400.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from fakes.pubmed_records import Record, article_set

REACH = 9_999
TOO_FAR = (
    "Exception:\n'retstart' cannot be larger than 9998. For PubMed, ESearch can only retrieve the "
    "first 9,999 records matching the query. To obtain more than 9,999 PubMed records, consider "
    "using EDirect that contains additional logic to batch PubMed search results automatically so "
    "that an arbitrary number can be retrieved."
)
DECLARED = '<?xml version="1.0" encoding="UTF-8" ?>\n'
DTD = "https://eutils.ncbi.nlm.nih.gov/eutils/dtd"
SEARCH_DTD = (
    f'<!DOCTYPE eSearchResult PUBLIC "-//NLM//DTD esearch 20060628//EN" '
    f'"{DTD}/20060628/esearch.dtd">\n'
)
POST_DTD = (
    f'<!DOCTYPE ePostResult PUBLIC "-//NLM//DTD epost 20090526//EN" "{DTD}/20090526/epost.dtd">\n'
)
FETCH_DTD = (
    f'<!DOCTYPE eEfetchResult PUBLIC "-//NLM//DTD efetch 20131226//EN" '
    f'"{DTD}/20131226/efetch.dtd">\n'
)
WITHIN = re.compile(r"\((?P<query>.*)\) AND (?P<lowest>\d+):(?P<highest>\d+)\[UID\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    status: int = 200


class Holdings:
    """The records by PMID. May be changed from another thread while requests are answered."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = {record.pmid: record for record in records}

    def put(self, *records: Record) -> None:
        """New records, or new states of held ones."""
        self._records = self._records | {record.pmid: record for record in records}

    def delete(self, *pmids: int) -> None:
        self._records = {p: r for p, r in self._records.items() if p not in pmids}

    @property
    def all(self) -> Mapping[int, Record]:
        """The records of this moment; what is changed later does not show in it."""
        return self._records


class Eutils:
    """The three utilities, and the histories that they share."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._histories: dict[str, list[tuple[int, ...]]] = {}
        self.answer: Mapping[str, Callable[[Mapping[str, str]], Answer]] = {
            "esearch": self._search,
            "epost": self._post,
            "efetch": self._fetch,
        }

    def expire(self) -> None:
        """Forget every history."""
        self._histories.clear()

    def _search(self, asked: Mapping[str, str]) -> Answer:
        hits = sorted(self._hits(asked), key=lambda record: (record.edat, record.pmid))[::-1]
        pmids = tuple(record.pmid for record in hits)
        start = int(asked.get("retstart", 0))
        if start >= REACH:
            return _error("eSearchResult", SEARCH_DTD, f"Search Backend failed: {TOO_FAR}")
        wanted = int(asked.get("retmax", 20))
        most = min(wanted, REACH - start)
        warned = (
            "<WarningList><OutputMessage>Restrictions achieved. start and count adjusted to "
            f"{start}, {most}</OutputMessage></WarningList>"
            if most < wanted
            else ""
        )
        shown = pmids[start : start + most]
        ids = "".join(f"<Id>{pmid}</Id>\n" for pmid in shown)
        history = self._keep(pmids, asked.get("WebEnv")) if asked.get("usehistory") == "y" else ""
        return _xml(
            f"<eSearchResult><Count>{len(pmids)}</Count><RetMax>{len(shown)}</RetMax>"
            f"<RetStart>{start}</RetStart>{history}<IdList>\n{ids}</IdList><TranslationSet/>"
            f"<QueryTranslation></QueryTranslation>{warned}</eSearchResult>",
            SEARCH_DTD,
        )

    def _hits(self, asked: Mapping[str, str]) -> Iterable[Record]:
        query, lowest, highest = asked["term"], 0, 10**9
        if within := WITHIN.fullmatch(query):
            query = within["query"]
            lowest, highest = int(within["lowest"]), int(within["highest"])
        words = [] if query == "all[sb]" else re.sub(r"\[\w+\]", "", query).lower().split()
        kind = asked.get("datetype", "edat")
        first, last = (
            date(*map(int, asked.get(name, otherwise).split("/")))
            for name, otherwise in (("mindate", "1800/01/01"), ("maxdate", "3000/01/01"))
        )
        return (
            record
            for record in self._holdings.all.values()
            if lowest <= record.pmid <= highest
            and first <= (record.mdat if kind == "mdat" else record.edat) <= last
            and all(word in record.title.lower() for word in words)
        )

    def _keep(self, pmids: tuple[int, ...], web_env: str | None) -> str:
        if web_env not in self._histories:
            web_env = f"MCID_{uuid.uuid4().hex}"
            self._histories[web_env] = []
        self._histories[web_env].append(pmids)
        key = len(self._histories[web_env])
        return f"<QueryKey>{key}</QueryKey><WebEnv>{web_env}</WebEnv>"

    def _post(self, asked: Mapping[str, str]) -> Answer:
        ids = [int(uid) for uid in asked.get("id", "").split(",") if uid.strip()]
        if not ids:
            return _error("ePostResult", POST_DTD, "IDs list is empty!", 400)
        kept = self._keep(tuple(dict.fromkeys(ids)), asked.get("WebEnv"))
        return _xml(f"<ePostResult>{kept}</ePostResult>", POST_DTD)

    def _fetch(self, asked: Mapping[str, str]) -> Answer:
        start = int(asked.get("retstart", 0))
        most = int(asked.get("retmax", 10_000))
        if "WebEnv" in asked:
            if start >= REACH:
                text = f"Search backend cannot retrieve history data. Reason: {TOO_FAR}"
                return _error("eFetchResult", FETCH_DTD, text, 400)
            key = int(asked["query_key"])
            queries = self._histories.get(asked["WebEnv"], [])
            if not 0 < key <= len(queries):
                return _error("eFetchResult", FETCH_DTD, f"Unable to obtain query #{key}")
            pmids = queries[key - 1][:REACH]
        else:
            pmids = tuple(int(uid) for uid in asked.get("id", "").split(",") if uid.strip())
            if not pmids:
                text = "ID list is empty! Possibly it has no correct IDs."
                return _error("eFetchResult", FETCH_DTD, text, 400)
        held = self._holdings.all
        return Answer(article_set(held[p] for p in pmids[start : start + most] if p in held))


def _error(root: str, dtd: str, text: str, status: int = 200) -> Answer:
    return _xml(f"<{root}>\n\t<ERROR>{text}</ERROR>\n</{root}>\n", dtd, status)


def _xml(body: str, dtd: str, status: int = 200) -> Answer:
    return Answer(f"{DECLARED}{dtd}{body}".encode(), status)
