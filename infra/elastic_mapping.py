"""What the index of records holds: its mappings, and the document of a record."""

from typing import Any

from consumers.ports import Vector
from streams.citation import Article

# Under what name an index keeps what it knows of itself: Elasticsearch leaves that alone.
NOTES = "kailin"


def index_body(dimensions: int, shards: int = 1) -> dict[str, Any]:
    """Settings and mappings of the index, for embeddings of this many dimensions."""
    text = {"type": "text", "analyzer": "english"}
    keyword = {"type": "keyword", "ignore_above": 256}
    return {
        "settings": {
            "number_of_shards": str(shards),
            "auto_expand_replicas": "0-1",
            # How long a deleted record's version is remembered: a delayed older copy that
            # arrives within this time stays out. The server's own default is a minute.
            "gc_deletes": "1h",
        },
        "mappings": {
            "dynamic": "strict",
            "properties": {
                "pmid": {"type": "long"},
                "version": {"type": "integer"},
                # The version by which writes are ordered, which cannot be searched for itself.
                "offset": {"type": "long"},
                "title": text,
                "abstract": text,
                "embedding": {
                    "type": "dense_vector",
                    "dims": dimensions,
                    "index": True,
                    # Embeddings are of unit length, so this is the cosine, without its cost.
                    "similarity": "dot_product",
                    "index_options": {"type": "int8_hnsw", "m": 16, "ef_construction": 100},
                },
                "mesh": keyword,
                "mesh_major": keyword,
                "publication_types": keyword,
                "languages": keyword,
                "journal": keyword,
                "keywords": keyword,
                "doi": keyword,
                "pmcid": keyword,
                # As precise as the record is: 2000, 2000-03 or 2000-03-17.
                "published": {
                    "type": "date",
                    "format": "yyyy-MM-dd||yyyy-MM||yyyy",
                    "ignore_malformed": True,
                },
                "corpus": {"type": "boolean"},
                "arrived": {"type": "date", "format": "strict_date_optional_time"},
            },
        },
    }


def with_notes(body: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    """Settings and mappings of an index that keeps these notes about itself."""
    return {**body, "mappings": {**body["mappings"], "_meta": {NOTES: notes}}}


def document(article: Article, vector: Vector, offset: int) -> dict[str, Any]:
    """What the index holds of a record, whose message has this offset."""
    return {
        "pmid": article.pmid,
        "version": article.version,
        "offset": offset,
        "title": article.title,
        "abstract": article.abstract,
        "embedding": vector.tolist(),
        "mesh": article.descriptors,
        "mesh_major": [heading.ui for heading in article.mesh if heading.major],
        "publication_types": [kind.ui for kind in article.publication_types],
        "languages": article.languages,
        "journal": article.journal.title,
        "keywords": list(dict.fromkeys(keyword.text for keyword in article.keywords)),
        "doi": article.doi,
        "pmcid": article.pmcid,
        "published": article.published,
        "corpus": article.corpus,
        "arrived": article.arrived.isoformat(),
    }
