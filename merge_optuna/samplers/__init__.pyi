# ruff: noqa
# fmt: off
"""Samplers: how a search varies a recipe. State lives in the study's storage alone.

Generated from the options of the algorithms by ``python -m tests.samplers.stub``; do not
edit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from merge_optuna.samplers._bounds import Bounds as Bounds
from merge_optuna.samplers._bounds import Clip as Clip
from merge_optuna.samplers._bounds import Midpoint as Midpoint
from merge_optuna.samplers._bounds import Reflect as Reflect
from merge_optuna.samplers._bounds import Resample as Resample
from merge_optuna.samplers._protocol.claim import Claim as Claim
from merge_optuna.samplers._protocol.sampler import ArchiveSampler as ArchiveSampler
from merge_optuna.samplers._protocol.sampler import PopulationSampler as PopulationSampler
from merge_optuna.samplers._protocol.sampler import StoredSampler as StoredSampler
from merge_optuna.samplers._variation import Gaussian as Gaussian
from merge_optuna.samplers._variation import Genetic as Genetic
from merge_optuna.samplers._variation import IsoLine as IsoLine
from merge_optuna.samplers._variation import PolynomialMutation as PolynomialMutation
from merge_optuna.samplers._variation import SBX as SBX
from merge_optuna.samplers._variation import UniformSBX as UniformSBX
from merge_optuna.samplers._variation import Variation as Variation
from merge_optuna.samplers.adaptation import Adaptation as Adaptation
from merge_optuna.samplers.adaptation import Dither as Dither
from merge_optuna.samplers.adaptation import Fixed as Fixed
from merge_optuna.samplers.adaptation import JDE as JDE
from merge_optuna.samplers.adaptation import SHADE as SHADE
from merge_optuna.samplers.algorithm import ArchiveAlgorithm as ArchiveAlgorithm
from merge_optuna.samplers.algorithm import Candidate as Candidate
from merge_optuna.samplers.algorithm import DistributionAlgorithm as DistributionAlgorithm
from merge_optuna.samplers.algorithm import Member as Member
from merge_optuna.samplers.algorithm import Population as Population
from merge_optuna.samplers.algorithm import PopulationAlgorithm as PopulationAlgorithm
from merge_optuna.samplers.box import Box as Box
from merge_optuna.samplers.breeding import Breeding as Breeding
from merge_optuna.samplers.breeding import Pedigree as Pedigree
from merge_optuna.samplers.breeding import SplitCrossover as SplitCrossover
from merge_optuna.samplers.catcma import CatCmaEs as CatCmaEs
from merge_optuna.samplers.cmaes import CmaEs as CmaEs
from merge_optuna.samplers.cross_entropy import CrossEntropy as CrossEntropy
from merge_optuna.samplers.de import Best as Best
from merge_optuna.samplers.de import CurrentToBest as CurrentToBest
from merge_optuna.samplers.de import CurrentToPBest as CurrentToPBest
from merge_optuna.samplers.de import DE as DE
from merge_optuna.samplers.de import LinearReduction as LinearReduction
from merge_optuna.samplers.de import Mutation as Mutation
from merge_optuna.samplers.de import Rand as Rand
from merge_optuna.samplers.evolver import Evolver as Evolver
from merge_optuna.samplers.ga import FitnessProportional as FitnessProportional
from merge_optuna.samplers.ga import GA as GA
from merge_optuna.samplers.ga import Generational as Generational
from merge_optuna.samplers.ga import Selection as Selection
from merge_optuna.samplers.ga import Survival as Survival
from merge_optuna.samplers.ga import Tournament as Tournament
from merge_optuna.samplers.ga import Truncation as Truncation
from merge_optuna.samplers.map_elites import Descriptor as Descriptor
from merge_optuna.samplers.map_elites import MAPElites as MAPElites
from merge_optuna.samplers.niches import NaturalNiches as NaturalNiches
from merge_optuna.samplers.niches import Niches as Niches
from merge_optuna.samplers.nsga2 import NSGA2 as NSGA2
from merge_optuna.samplers.pso import Absorb as Absorb
from merge_optuna.samplers.pso import Bounce as Bounce
from merge_optuna.samplers.pso import ClipPosition as ClipPosition
from merge_optuna.samplers.pso import Coefficients as Coefficients
from merge_optuna.samplers.pso import Constriction as Constriction
from merge_optuna.samplers.pso import GlobalBest as GlobalBest
from merge_optuna.samplers.pso import Inertia as Inertia
from merge_optuna.samplers.pso import Leash as Leash
from merge_optuna.samplers.pso import PSO as PSO
from merge_optuna.samplers.pso import Ring as Ring
from merge_optuna.samplers.pso import Topology as Topology
from merge_optuna.samplers.pso import Walls as Walls

__all__ = [
    "Absorb",
    "ArchiveAlgorithm",
    "ArchiveSampler",
    "Best",
    "Bounce",
    "Box",
    "Breeding",
    "Candidate",
    "CatCmaEs",
    "CatCmaEsSampler",
    "Claim",
    "Clip",
    "ClipPosition",
    "CmaEs",
    "CmaEsSampler",
    "Constriction",
    "CrossEntropy",
    "CrossEntropySampler",
    "CurrentToBest",
    "CurrentToPBest",
    "DE",
    "DESampler",
    "Descriptor",
    "DistributionAlgorithm",
    "Dither",
    "Evolver",
    "EvolverSampler",
    "FitnessProportional",
    "Fixed",
    "GA",
    "GASampler",
    "Gaussian",
    "Generational",
    "Genetic",
    "GlobalBest",
    "Inertia",
    "IsoLine",
    "JDE",
    "Leash",
    "LinearReduction",
    "MAPElites",
    "MAPElitesSampler",
    "Member",
    "Midpoint",
    "NSGA2",
    "NSGA2Sampler",
    "NaturalNiches",
    "Niches",
    "NichesSampler",
    "PSO",
    "PSOSampler",
    "Pedigree",
    "PolynomialMutation",
    "Population",
    "PopulationAlgorithm",
    "PopulationSampler",
    "Rand",
    "Reflect",
    "Resample",
    "Ring",
    "SBX",
    "SHADE",
    "SplitCrossover",
    "StoredSampler",
    "SwarmSampler",
    "Tournament",
    "Truncation",
    "UniformSBX",
    "Variation",
]

class CatCmaEsSampler(ArchiveSampler):
    """CatCMA with margin: CMA-ES that learns choices, steps and numbers at once.

    For spaces that mix kinds: which layer to take at each depth and how strongly, which method
    and which weights. Where all parameters are continuous :class:`CmaEsSampler` is the same
    without what the others need. OptunaHub's ``CatCmawmSampler`` uses the same engine; how this
    one differs is what :class:`CmaEsSampler` says of Optuna's, and conditional parameters are
    not guessed: what a trial has not suggested teaches nothing.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        x0: start of numeric parameters, name -> value in its own units; 0.5 in the unit box where
            not given.
        sigma0: standard deviation of the start in unit-box units, 1/6 by default; one number or
            parameter name -> number (1/6 where not given).
        probabilities: start of categorical parameters, name -> probability of each choice in the
            order of its choices, all above 0; the same for every choice where not given.
        population_size: candidates per generation, by default 4 + ⌊3 ln n⌋ for n parameters.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, x0: Mapping[str, float] | None = ..., sigma0: float | Mapping[str, float] | None = ..., probabilities: Mapping[str, Sequence[float]] | None = ..., population_size: int | None = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class CmaEsSampler(ArchiveSampler):
    """CMA-ES whose state is nothing but the stored trials.

    How it differs from :class:`optuna.samplers.CmaEsSampler`, which uses the same engines:

    - A search that is killed and started again goes on exactly as if nothing had happened, and
      every process of a study sees the same population. Optuna's pickles its optimizer into
      trial attributes (megabytes per generation at 300 parameters) and draws its seeds from the
      process.
    - Several workers waste nothing: generation g is told results gλ … (g+1)λ-1 whichever
      generation they were drawn from. Optuna's drops those of earlier generations.
    - Failed trials are proposed again; pruned and infeasible ones rank below the others instead
      of being dropped; constraints set by ``trial.set_constraint`` are used (Deb's rule).
    - ``x0`` and ``sigma0`` are here to stay, and ``sigma0`` may differ between parameters. With
      ``search_space`` the first trial is the first CMA-ES sample. Bounds are reached exactly.
    - Enqueued trials and trials of other samplers do not move the distribution, and there are no
      restarts with larger populations, no ``source_trials`` and no ``lr_adapt``.

    "Exactly" holds with ``search_space`` and ``seed`` given, one worker, an evaluator that returns
    the same value for the same parameters, and the same machine type and library versions;
    a candidate that fails ``max_attempts`` times, or whose process dies twenty times, ranks last
    and is not repeated.

    Samples outside the bounds are drawn again up to 100 times, then clipped. Categorical
    parameters are drawn uniformly: CMA-ES cannot learn them. When the distribution has collapsed
    (the engine's own stopping rule) a new one starts at ``x0``.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        variant: ``"full"``, ``"separable"`` (diagonal covariance, for hundreds of parameters)
            or ``"margin"`` (keeps parameters with a step from freezing, arXiv 2205.13482).
        x0: start, parameter name -> value in its own units; 0.5 in the unit box where not given.
        sigma0: standard deviation of the start in unit-box units, 1/6 by default; one number or
            parameter name -> number (1/6 where not given).
        population_size: candidates per generation, by default 4 + ⌊3 ln n⌋ for n parameters.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, variant: Literal['full', 'separable', 'margin'] = ..., x0: Mapping[str, float] | None = ..., sigma0: float | Mapping[str, float] | None = ..., population_size: int | None = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class CrossEntropySampler(ArchiveSampler):
    """The cross-entropy method, whose distribution is nothing but the stored trials.

    Simple and robust where a few parameters matter and scores are noisy: it learns no correlation
    between parameters, as CMA-ES does, and needs no step size.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        population_size: candidates per generation.
        elites: how many of them, the best, the next distribution is fitted to.
        smoothing: how far mean and standard deviation move towards those of the elites, in (0, 1]:
            with 1 they are theirs, with less they do not collapse as soon (2005, eq. 17).
        sigma: standard deviation at first, of a coordinate in [0, 1]; the mean is the middle.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, population_size: int = ..., elites: int = ..., smoothing: float = ..., sigma: float = ..., initial_population: Sequence[Mapping[str, Any]] = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class DESampler(PopulationSampler):
    """Differential evolution whose population is nothing but the stored trials.

    In each generation every slot gets one candidate, in order, drawn from the population after
    the generation before: with one worker that is the textbook. With several nothing waits. The
    next generation begins when all free slots have had their candidate; slots whose candidate is
    still in flight are passed over and take part with what is known of them. When no slot is free,
    the one with the fewest candidates in this generation gets a further one, of those the one with
    the fewest in flight; a generation of nothing but further candidates has one for each slot.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        mutation: ``CurrentToPBest(p, archive)``, ``CurrentToBest()``, ``Best()`` or ``Rand()``.
        adaptation: ``SHADE(memory)``, ``JDE()``, ``Dither(low, high, CR)`` or ``Fixed(F, CR)``.
            With ``mutation=Rand(), adaptation=Fixed(0.5, 0.9)`` it is the classic rand/1/bin.
        population_size: number of slots; n for n parameters, between 20 and 100, by default.
        reduction: ``LinearReduction(budget)`` to shrink the population; see
            :meth:`DESampler.lshade`.
        bounds: what happens to mutants outside: ``Midpoint()``, ``Clip()``, ``Reflect()`` or
            ``Resample()``.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    @classmethod
    def lshade(cls, budget: int, search_space: Mapping[str, BaseDistribution], *, population_size: int | None = ..., bounds: Bounds = ..., initial_population: Sequence[Mapping[str, Any]] = ..., seed: int | None = ..., max_attempts: int = ...) -> DESampler: ...
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, mutation: Mutation = ..., adaptation: Adaptation = ..., population_size: int | None = ..., reduction: LinearReduction | None = ..., bounds: Bounds = ..., initial_population: Sequence[Mapping[str, Any]] = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class EvolverSampler(ArchiveSampler):
    """Differential evolution on the weights of models; its population is the stored trials.

    The first trials are the models themselves, or their merge. Then one model after the other is
    the target: a mutant is made of it by the difference of two others (or of one other and
    itself), some of its coordinates go into the child, and the child takes the target's place at
    once if it is strictly better. One generation is as many trials as there are models. With
    several workers every result takes its place as it comes.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: ``space.distributions()`` of a ``mo.spaces.DifferentialCrossover``.
        F: scale factor of the difference.
        CR: crossover rate: the share of coordinates that come from the mutant.
        scoring: what is compared: ``"individual"`` scores the child, ``"merged"`` the whole
            population merged with the child in the place of its target. That of the space.
        adaptation: where F and CR come from instead: ``JDE()``, ``SHADE(memory)``, ``Dither()``.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def __init__(self, search_space: Mapping[str, BaseDistribution], *, F: float = ..., CR: float = ..., scoring: Literal['individual', 'merged'] = ..., adaptation: Adaptation | None = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class GASampler(ArchiveSampler):
    """A real-coded genetic algorithm whose population is nothing but the stored trials.

    Two parents, drawn independently, make one child (of crossover's two), which is then mutated.
    It may equal one of them. Categorical parameters are exchanged between the parents, and drawn
    anew by mutation. Whenever ``population_size`` results are in, they are the children of the
    next replacement. A child that is as good as a member of the population does not replace it.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        selection: ``Tournament(size)`` or ``FitnessProportional()``.
        crossover: ``SBX(eta, probability)`` or another :class:`Variation` like ``IsoLine()``.
        mutation: ``PolynomialMutation(eta, probability)`` or ``Gaussian(sigma)``.
        survival: ``Truncation()`` of population and children together, or
            ``Generational(elites)``.
        population_size: how many are parents, and how many children a generation has.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, selection: Selection = ..., crossover: Variation = ..., mutation: Variation = ..., survival: Survival = ..., population_size: int = ..., initial_population: Sequence[Mapping[str, Any]] = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class MAPElitesSampler(ArchiveSampler):
    """MAP-Elites whose archive is nothing but the stored trials: good and different solutions.

    The descriptors that you name span a grid. Every cell keeps the best trial that fell into it,
    its elite; candidates are children of elites drawn uniformly from the occupied cells. Every
    result is inserted as it comes. Read the result with :meth:`archive`.

    A descriptor is the trial's user attribute of that name (``trial.set_user_attr("size", 3.2)``
    in the objective) or, without one, its parameter of that name. Values outside of the range
    count to the first or the last cell. A completed trial without one, or with something that is
    not a finite number, is not inserted and warned about. An elite is replaced by strict
    improvement. Pruned and infeasible trials are elites only until something better comes; failed
    ones never are.
    Categorical parameters are drawn anew or, with two parents, exchanged.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        descriptors: name -> (lower bound, upper bound, number of cells).
        initial: number of results before the first child; until then candidates are uniform.
            Those of ``initial_population`` count.
        variation: ``Gaussian(sigma)``, ``IsoLine(sigma1, sigma2)``, or
            ``Genetic(SBX(), PolynomialMutation())``. On a ``mo.spaces.SplitSlerp`` the first
            trials are the source models, and children have two parents, a split and a ratio.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def archive(self, study: Study) -> dict[tuple[int, ...], FrozenTrial]: ...
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, descriptors: Mapping[str, tuple[float, float, int]] | tuple[Descriptor, ...], initial: int = ..., variation: Variation = ..., initial_population: Sequence[Mapping[str, Any]] = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class NSGA2Sampler(ArchiveSampler):
    """NSGA-II, whose population is nothing but the stored trials; for one objective or several.

    How it differs from :class:`optuna.samplers.NSGAIISampler`:

    - A search that is killed and started again goes on exactly as if nothing had happened, and
      workers neither wait nor lose results: whenever ``population_size`` results are in, they are
      the children of the next replacement, whichever generation they were drawn from.
    - Crossover and mutation are SBX and polynomial mutation, not uniform crossover and uniform
      values. With SBX as it is in the paper, where a child is three quarters its first parent, it
      was behind Optuna's on half of the test problems after 1000 trials, and so
      :class:`UniformSBX` is the default, which is not.
    - Failed trials are proposed again; pruned ones rank below completed ones.

    Two parents, each the winner of a tournament of two, make one child (of crossover's two), which
    is then mutated. Constraints set by ``trial.set_constraint`` are used: who violates less
    dominates. ``study.best_trials`` of Optuna is the front that has been found.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        population_size: how many are parents, and how many children a generation has.
        crossover: ``UniformSBX(eta, probability)``, or ``SBX(eta, probability)`` as in the
            paper, or another :class:`Variation` like ``IsoLine()``.
        mutation: ``PolynomialMutation(eta, probability)`` or ``Gaussian(sigma)``.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, population_size: int = ..., crossover: Variation = ..., mutation: Variation = ..., initial_population: Sequence[Mapping[str, Any]] = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class NichesSampler(ArchiveSampler):
    """M2N2's evolution on any search space; its archive is nothing but the stored trials.

    On a ``mo.spaces.SplitSlerp`` it evolves the weights of models, as the paper does: the first
    trials are the source models, the others children of two individuals. On any other space it
    evolves the parameters.

    Individuals compete for examples: one that solves what few others do stays, even if it is bad
    on average; and the second parent is the one that is good where the first is not. This needs
    per-example scores, which :class:`mo.MergeObjective` stores, or ``mo.set_scores(trial, array)``
    in any objective. They are in the direction of the study: in one that minimises they are
    losses, smaller is better. Without them the objective's value is the only score and there is
    one niche. See :class:`Niches` for the formulas.

    A child lies between its parents: with a random ratio w and a random split point, coordinates
    before it are a + w (b − a), those from it on a + (1 − w) (b − a). The coordinates are the
    parameters sorted by name; a categorical one is b's with that probability. The defaults are the
    paper's for a search from scratch.

    Every result is inserted as it comes. Read the result with :meth:`archive`.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        archive_size: number P of members.
        alpha: strength of the competition; 0 for none, f then being the plain sum for binary
            scores.
        attraction: False draws the second parent like the first (ablation).
        crossover: False makes a child of the first parent by mutation alone (ablation).
        split_point: False takes the ratio w for all coordinates (ablation).
        mutation: ``Gaussian(sigma)`` or ``PolynomialMutation(eta)``; None for none. That of a
            ``SplitSlerp`` is its ``mutation_std``.
        initial: number of results before the first child, ``archive_size`` by default; until then
            candidates are uniform. Those of ``initial_population`` count.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    @property
    def needs_examples(self) -> bool: ...
    def archive(self, study: Study) -> list[FrozenTrial]: ...
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, archive_size: int = ..., alpha: float = ..., attraction: bool = ..., crossover: bool = ..., split_point: bool = ..., mutation: Variation | None = ..., initial: int | None = ..., initial_population: Sequence[Mapping[str, Any]] = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class PSOSampler(PopulationSampler):
    """A particle swarm that is nothing but the stored trials.

    All particles move at once, personal and global bests change by strict improvement only. A
    particle whose candidate was pruned or has failed moves on from it like any other.

    In each generation every slot gets one candidate, in order, drawn from the population after
    the generation before: with one worker that is the textbook. With several nothing waits. The
    next generation begins when all free slots have had their candidate; slots whose candidate is
    still in flight are passed over and take part with what is known of them. When no slot is free,
    the one with the fewest candidates in this generation gets a further one, of those the one with
    the fewest in flight; a generation of nothing but further candidates has one for each slot.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        coefficients: ``Inertia(w, c1, c2)`` or ``Constriction(c1, c2)``.
        topology: ``GlobalBest()`` or ``Ring(neighbours)``.
        random: whether r1 and r2 are drawn for each ``"dimension"``, or as one ``"scalar"`` for
            each particle and step. With scalars, without an initial velocity and away from the
            bounds, every particle stays an affine combination of the initial ones.
        population_size: number of particles.
        initial_velocity: 0 for particles at rest; otherwise which part of the way to a random
            point: 0.5 in SPSO 2006 and 2007 ("half-difference"), 1 in SPSO 2011.
        max_velocity: largest step of a parameter, as a fraction of its range.
        bounds: what happens to particles outside: ``Absorb()``, ``Bounce()`` or
            ``ClipPosition()``.
        raw: whether the coordinates are the parameters themselves instead of [0, 1]: for floats
            that all have the same range [−limit, limit]. The bounds are then ``Leash(limit)``;
            there is no initial and no maximal velocity.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def __init__(self, search_space: Mapping[str, BaseDistribution] | None = ..., *, coefficients: Coefficients = ..., topology: Topology = ..., random: Literal['dimension', 'scalar'] = ..., population_size: int = ..., initial_velocity: float = ..., max_velocity: float | None = ..., bounds: Walls = ..., raw: bool = ..., initial_population: Sequence[Mapping[str, Any]] = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...

class SwarmSampler(PopulationSampler):
    """PSO-Merging with random numbers for every parameter; the swarm is the stored trials.

    The first trials are the models themselves, one particle each. Then all particles move at
    once; personal and global bests change by strict improvement only. The weights of inertia and
    pulls are those of the space.

    In each generation every slot gets one candidate, in order, drawn from the population after
    the generation before: with one worker that is the textbook. With several nothing waits. The
    next generation begins when all free slots have had their candidate; slots whose candidate is
    still in flight are passed over and take part with what is known of them. When no slot is free,
    the one with the fewest candidates in this generation gets a further one, of those the one with
    the fewest in flight; a generation of nothing but further candidates has one for each slot.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        search_space: ``space.distributions()`` of a ``mo.spaces.ParticleSwarm``.
        topology: ``GlobalBest()`` or ``Ring(neighbours)``.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """
    def __init__(self, search_space: Mapping[str, BaseDistribution], *, topology: Topology = ..., seed: int | None = ..., max_attempts: int = ...) -> None: ...
