"""Small hierarchies for tests, and any hierarchy as nxontology has it."""

from nxontology import NXOntology

from streams.mesh import Descriptor, Mesh, build


def mesh(places: dict[str, str], edition: str = "test") -> Mesh:
    """Descriptors by name with their tree numbers, separated by blanks; UIs count from D000001."""
    return build(
        edition,
        [
            Descriptor(f"D{number:06}", name, tuple(numbers.split()))
            for number, (name, numbers) in enumerate(places.items(), 1)
        ],
    )


def ui(of: Mesh, name: str) -> str:
    found = of.named(name)
    assert found is not None, name
    return found.ui


def metals() -> Mesh:
    """Figure 1 of Couto and Lamurias, https://doi.org/10.1016/B978-0-12-809633-8.20401-9."""
    return mesh(
        {
            "metal": "A01",
            "precious": "A01.100",
            "coinage": "A01.200",
            "platinum": "A01.100.100",
            "palladium": "A01.100.200",
            "gold": "A01.100.300 A01.200.100",
            "silver": "A01.100.400 A01.200.200",
            "copper": "A01.200.300",
        }
    )


def nxontology_of(of: Mesh) -> NXOntology[str]:
    """The same order, built from the parents of each place, for comparison."""
    ontology: NXOntology[str] = NXOntology()
    ontology.graph.add_nodes_from(d.ui for d in of.descriptors)
    for d in of.descriptors:
        parents = {of.places[n.rpartition(".")[0]] for n in d.tree_numbers if "." in n}
        ontology.graph.add_edges_from((of.descriptors[row].ui, d.ui) for row in parents)
    ontology.freeze()
    return ontology
