"""Book records: chapters, whole books, and the sets that they come in."""

from fakes.pubmed import document, parse
from streams.citation import (
    Article,
    Author,
    Keyword,
    PublicationType,
)


def test_a_book_chapter_is_a_record_of_its_book() -> None:
    (article,) = parse(
        document(
            "<PubmedBookArticle><BookDocument><PMID>20301295</PMID><ArticleIdList>"
            '<ArticleId IdType="bookaccession">NBK1</ArticleId></ArticleIdList><Book>'
            "<Publisher/><BookTitle>Reviews of genes</BookTitle>"
            "<PubDate><Year>1993</Year></PubDate></Book><ArticleTitle>A disease</ArticleTitle>"
            '<Language>eng</Language><PublicationType UI="D016454">Review</PublicationType>'
            '<Abstract><AbstractText Label="SUMMARY">Text.</AbstractText></Abstract>'
            "<ContributionDate><Year>2001</Year><Month>2</Month></ContributionDate>"
            "</BookDocument><PubmedBookData/></PubmedBookArticle>"
        )
    )
    assert isinstance(article, Article)
    assert (article.pmid, article.title, article.journal.title, article.published) == (
        20301295,
        "A disease",
        "Reviews of genes",
        "2001-02",
    )
    assert article.abstract == "SUMMARY: Text."
    assert article.publication_types == (PublicationType(ui="D016454", name="Review"),)


def test_a_whole_book_has_the_authors_of_the_book_and_a_chapter_its_own() -> None:
    def authors(name: str, type: str) -> str:
        return (
            f'<AuthorList Type="{type}"><Author><LastName>{name}</LastName></Author></AuthorList>'
        )

    def book(inner: str, after: str) -> str:
        return (
            "<PubmedBookArticle><BookDocument><PMID>9</PMID><ArticleIdList/><Book>"
            "<BookTitle>A book</BookTitle><PubDate><Year>1999</Year><Season>Fall</Season></PubDate>"
            f'{inner}<ELocationID EIdType="doi">10.1/book</ELocationID></Book>{after}'
            '<KeywordList Owner="NLM"><Keyword>genes</Keyword></KeywordList>'
            "<Sections><Section><SectionTitle>Contents</SectionTitle></Section></Sections>"
            "</BookDocument></PubmedBookArticle>"
        )

    of_the_book = authors("Ed", "editors") + authors("Book", "authors")
    whole, own, none = parse(
        document(
            book(of_the_book, ""),
            book(of_the_book, "<ArticleTitle>One</ArticleTitle>" + authors("Own", "authors")),
            book(of_the_book, "<ArticleTitle>Two</ArticleTitle>"),
        )
    )
    assert isinstance(whole, Article)
    assert isinstance(own, Article)
    assert isinstance(none, Article)
    assert (whole.title, whole.doi, whole.published) == ("A book", "10.1/book", "1999")
    assert (own.title, own.doi, own.journal.title) == ("One", None, "A book")
    assert [record.authors for record in (whole, own, none)] == [
        (Author(last="Book"),),
        (Author(last="Own"),),
        (Author(last="Book"),),
    ]
    assert whole.keywords == (Keyword(text="genes", owner="NLM"),)
    assert "Contents" not in repr(whole)


def test_the_sets_of_books_are_read_too() -> None:
    chapter = "<BookDocument><PMID>9</PMID><Book><BookTitle>B</BookTitle></Book></BookDocument>"
    gone = "<DeleteDocument><PMID>8</PMID></DeleteDocument>"
    inner = f"{chapter}<BookDocument>no end{chapter}{gone}"
    found = parse(f"<BookDocumentSet>{inner}</BookDocumentSet>")
    assert [type(entry).__name__ for entry in found] == [
        "Article",
        "Skipped",
        "Article",
        "Deletion",
    ]
    wrapped = f"<PubmedBookArticle>{chapter}<PubmedBookData/></PubmedBookArticle>"
    assert len(parse(f"<PubmedBookArticleSet>{wrapped * 3}</PubmedBookArticleSet>")) == 3
    assert parse("<PubmedBookArticleSet/>") == parse("<PubmedArticleSet></PubmedArticleSet>") == []
