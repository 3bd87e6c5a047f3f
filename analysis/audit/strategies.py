"""Several ways of looking within a class: clusters of attributions that only this class has."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.cluster import HDBSCAN, SpectralClustering
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

from analysis.audit.evidence import Evidence, seed_of
from analysis.audit.finding import Finding
from analysis.audit.logos import where_in_words
from analysis.audit.outliers import hellinger
from analysis.audit.settings import AuditSettings
from analysis.audit.significance import adjusted

Float64Array = NDArray[np.float64]

_LEAST_SILHOUETTE = 0.3
_LEAST_RAND = 0.6
_SEEDS = 3
_COMPONENTS = 8
_MAX_CLIPS = 1000
"""Most videos of a class that are clustered; fewer are enough to show two strategies."""


def strategies(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find classes whose attributions fall into clusters that other classes don't have.

    A class's clips are clustered on their first principal components in square-root space. The
    clusters have to be separate (silhouette of 0.3 or more) and to be found again in random subsets
    (adjusted Rand index of 0.6 or more). Then they are tested on clips that they weren't made from:
    one half of the class makes the clusters, and the other half has to fall into one of them more
    often than clips of other classes do (Fisher's exact test; the p of a class is the least of its
    clusters', times their number). So clusters that every class has don't count; a class of which a
    part is looked at as other classes are, and a part isn't, does.
    """
    groups = evidence.groups
    n_classes = len(evidence.class_names)
    size = np.bincount(groups[groups >= 0], minlength=n_classes)
    tested = np.flatnonzero(size >= max(2 * settings.min_cluster, settings.min_clips))
    if not len(tested):
        return []
    vectors = _components(hellinger(evidence))
    p = np.full(len(tested), np.nan)
    clusterings: dict[int, tuple[NDArray[np.int64], NDArray[np.int64], float]] = {}
    for at, index in enumerate(tested):
        member = np.flatnonzero(groups == index)
        rng = np.random.default_rng(seed_of("strategies", evidence.class_names[int(index)]))
        if len(member) > _MAX_CLIPS:
            member = np.sort(rng.choice(member, _MAX_CLIPS, replace=False))
        p[at] = 1.0
        clusters = cluster(vectors[member], settings.min_cluster)
        if clusters.max() < 1:
            continue
        inside = clusters >= 0
        apart = silhouette_score(vectors[member][inside], clusters[inside])
        stable = stability(vectors[member], clusters, settings.min_cluster, rng)
        if apart < _LEAST_SILHOUETTE or stable < _LEAST_RAND:
            continue
        p[at] = own_clusters(vectors[member], vectors[groups != index], settings.min_cluster, rng)
        clusterings[int(at)] = member, clusters, float(apart)
    q = adjusted(p)
    return [
        _finding(evidence, int(tested[at]), *clusterings[at], p=float(p[at]), q=float(q[at]))
        for at in clusterings
        if q[at] <= settings.q
    ]


def cluster(vectors: Float64Array, least: int) -> NDArray[np.int64]:
    """Cluster of each row, -1 for none: HDBSCAN's, or two spectral ones if it finds fewer.

    HDBSCAN needs clusters that are denser than the space between them. Spectral clustering also
    finds two that are merely apart, by their graph.
    """
    n_neighbours = min(10, len(vectors) - 1)
    labels = HDBSCAN(
        min_cluster_size=least, min_samples=min(5, len(vectors)), copy=True
    ).fit_predict(vectors)
    clustered = labels >= 0
    if labels.max() >= 1 and clustered.mean() >= 0.7:
        return np.asarray(labels, np.int64)
    spectral = SpectralClustering(
        2,
        affinity="nearest_neighbors",
        n_neighbors=n_neighbours,
        random_state=0,
        assign_labels="cluster_qr",
    )

    with warnings.catch_warnings():
        # The warning is about a graph in two parts, which is what we look for.
        warnings.simplefilter("ignore", UserWarning)
        two = np.asarray(spectral.fit_predict(vectors), np.int64)
    if np.bincount(two, minlength=2).min() < least:
        return np.zeros(len(vectors), np.int64)
    return two


def stability(
    vectors: Float64Array, clusters: NDArray[np.int64], least: int, rng: np.random.Generator
) -> float:
    """Lowest adjusted Rand index of the clusters with those of random subsets of four fifths."""
    indices = []
    for _ in range(_SEEDS):
        part = np.sort(rng.choice(len(vectors), max(4 * len(vectors) // 5, 2), replace=False))
        again = cluster(vectors[part], least=max(3, 4 * least // 5))
        indices.append(adjusted_rand_score(clusters[part], again))
    return float(min(indices))


def own_clusters(
    vectors: Float64Array, others: Float64Array, least: int, rng: np.random.Generator
) -> float:
    """P that a class's best cluster holds its clips no more often than those of others.

    Clusters are made from one half of the class. A clip is in a cluster if it is as near to the
    centre as nine tenths of the members are. Each half takes both roles, and the larger p counts.
    """
    order = rng.permutation(len(vectors))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    largest = 0.0
    for making, testing in (halves, halves[::-1]):
        clusters = cluster(vectors[making], max(3, least // 2))
        if clusters.max() < 1:
            return 1.0
        p_values = []
        for index in range(clusters.max() + 1):
            members = vectors[making][clusters == index]
            center = members.mean(axis=0)
            radius = np.quantile(np.linalg.norm(members - center, axis=1), 0.9)
            own = int((np.linalg.norm(vectors[testing] - center, axis=1) <= radius).sum())
            rest = int((np.linalg.norm(others - center, axis=1) <= radius).sum())
            table = [[own, len(testing) - own], [rest, len(others) - rest]]
            p_values.append(stats.fisher_exact(table, alternative="greater").pvalue)
        largest = max(largest, min(p_values) * len(p_values))
    return float(min(largest, 1.0))


def _components(vectors: Float64Array) -> Float64Array:
    n = min(_COMPONENTS, *vectors.shape)
    sample = vectors[:: max(1, len(vectors) // 20000)]
    n = min(n, len(sample))
    fitted = PCA(n, svd_solver="full" if len(sample) < 5000 else "covariance_eigh").fit(sample)
    components: Float64Array = fitted.transform(vectors)
    return components


def _finding(
    evidence: Evidence,
    index: int,
    member: NDArray[np.int64],
    clusters: NDArray[np.int64],
    apart: float,
    *,
    p: float,
    q: float,
) -> Finding:
    name = evidence.class_names[index]
    sizes = np.bincount(clusters[clusters >= 0])
    largest = np.argsort(-sizes, kind="stable")
    overall = evidence.maps.mean(axis=0)
    places, examples = [], []
    for one in largest[:3]:
        rows = member[clusters == one]
        mean = evidence.maps[rows].mean(axis=0) - overall
        y, x = divmod(int(mean.argmax()), evidence.grid[2])
        told = where_in_words(y, x, evidence.grid)
        if evidence.weighs_frames:
            told += f", most in step {int(evidence.frame_weight[rows].mean(axis=0).argmax()) + 1}"
        places.append(f"{sizes[one]} clips ({told})")
        examples += list(evidence.examples(rows, most=2))
    return Finding(
        kind="strategies",
        scope="class",
        subject=(name,),
        seen=f"The clips of {name!r} fall into {len(sizes)} kinds by their maps: "
        f"{'; '.join(places)}.",
        check="Compare clips of each kind: they may be two sub-classes, two sources, or a "
        "shortcut that only some clips offer.",
        effect=apart,
        effect_name="silhouette of the clusters",
        low=float("nan"),
        high=float("nan"),
        p=p,
        q=q,
        n=len(member),
        strength=float(np.clip(apart, 0, 1)),
        examples=tuple(examples),
        method=evidence.method,
        class_specific=evidence.class_specific,
    )
