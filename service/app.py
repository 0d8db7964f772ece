"""create_app(settings): the only place where the parts of the service are put together."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.datastructures import State
from starlette.types import Lifespan, Scope

from lccl.bundle.format import load
from lccl.compiler import compile_network
from lccl.engines.cpu.cores import find_cores

from .api import operations as operators
from .api import pages
from .api.exchange import BodyMemory, Exchange
from .api.middleware import RequestObserver, content_security_policy
from .api.operation import Operation, route
from .api.operations import Health
from .api.origins import SharedOrigins, host_check
from .api.v1 import classify, skip_map
from .api.v1 import models as v1_models
from .api.v2 import infer
from .api.v2 import models as v2_models
from .auth.access import AccessControl
from .auth.keys import KeyRing
from .auth.rate_limits import RateLimits
from .auth.shared_rates import LOOK_S, SharedRates
from .auth.windows import Windows
from .background import call_beside, repeat
from .everywhere import Everywhere
from .inference.batcher import Batcher
from .inference.brownout import BrownOut
from .inference.cost import CostModel
from .inference.decoders import Decoders
from .inference.pipeline import Pipeline
from .inference.registry import Registry, ServedModel
from .inference.runner import Runner, WorkBatcher
from .inference.self_test import SelfTest, warm_up
from .settings import Settings
from .signing import SigningPolicy
from .sources.follow import ModelSources
from .sources.location import parse_locations
from .telemetry.accounting import Accounting
from .telemetry.gpu import KINDS, gpus_in_use, memory
from .telemetry.metrics import Metrics
from .telemetry.tracing import Tracing
from .transport.admission import AdmissionControl
from .transport.proxies import behind_proxies
from .transport.tls import Certificates

if TYPE_CHECKING:
    import grpc

    from .api.grpc.calls import Procedure
    from .transport.grpc import GrpcPort

log = logging.getLogger(__name__)
KEYS_S = 2.0  # seconds between looks at the file of API keys


def create_app(settings: Settings, everywhere: Everywhere | None = None, windows: Windows | None = None) -> FastAPI:
    """Make the service, its models loaded and warm; its threads start with the application.

    Its ``state`` has the parts that the server and tests reach: registry, batcher, runner, metrics, bodies, access, the
    port of gRPC if there is one, how to refuse a request, and what to do at SIGHUP and when the server begins to end.

    Args:
        everywhere: what this and other processes do together; by default there are no others.
        windows: where the requests of callers are counted; by default for this process alone.

    Raises:
        StartError: the file of API keys, the signing policy, a certificate or the store of rates cannot be used, the
            packages of the tracing asked for are missing, or no source has a model.
        BundleError: a model, or the folder of models, cannot be used.
        EngineError: the engine, device or precision is not to be had.

    """
    if settings.canary_interval_s is not None:
        log.warning("canary_interval_s is deprecated: set self_test_interval_s (LCCL_SELF_TEST_INTERVAL_S)")
    everywhere = everywhere or Everywhere()
    certificates = Certificates.of(settings)
    tracing = Tracing.from_environment() if settings.tracing else None
    single = settings.api_key.get_secret_value() if settings.api_key else None
    keys = KeyRing.load(settings.api_keys, single)
    metrics, cost = Metrics(CollectorRegistry()), CostModel()
    rates = RateLimits(settings.rate_limit, windows)
    shared = _shared_rates(settings, rates, metrics)
    access = AccessControl(keys, rates, shared)
    bodies, batcher = BodyMemory(settings.max_body_bytes, settings.max_inflight_bytes), _make_batcher(settings)
    sources = ModelSources(
        parse_locations(settings.models), settings.models_cache,
        lambda source, is_up: metrics.source_up.labels(source).set(is_up),
    )  # fmt: skip
    registry = _load_models(settings, sources, metrics, cost, batcher)
    self_test = SelfTest(registry, batcher, settings.self_test_interval_s)
    runner, decoders = _make_runner(settings, batcher, cost, metrics), _make_decoders(settings)
    pipeline = Pipeline(batcher, decoders, settings.max_pixels, settings.max_request_pixels, settings.request_timeout_s)
    exchange = Exchange(registry, pipeline, bodies, metrics, settings.request_timeout_s)
    health = Health(registry, batcher, runner, self_test, everywhere)
    _change_together(registry, everywhere)

    page = pages.documentation_page(settings.root_path) if settings.docs else b""
    operations = _operations(settings, exchange, pipeline, health, registry, bodies, metrics, everywhere, page)
    lifespan = _lifespan(
        settings, sources, registry, batcher, runner, self_test, decoders, tracing, keys, shared, everywhere
    )
    app = _fastapi(settings, operations, access, lifespan)
    observer = app.middleware_stack = _observer(app, settings, metrics, page, tracing)
    app.state = State(
        {
            "registry": registry, "batcher": batcher, "runner": runner, "metrics": metrics, "bodies": bodies,
            "access": access, "refuse": observer.refuse, "reload": partial(_reload, keys, sources, registry),
            "certificates": certificates, "grpc": None, "drain": lambda: None,
        }
    )  # fmt: skip
    if settings.grpc_port is not None:
        calls = partial(_procedures, settings, exchange, pipeline, health, registry, everywhere, app.state)
        app.state.grpc = _grpc(settings, certificates, observer, access, bodies, health, calls)
        app.state.drain = app.state.grpc.drain
    return app


def _fastapi(
    settings: Settings, operations: Sequence[Operation], access: AccessControl, lifespan: Lifespan[FastAPI]
) -> FastAPI:
    return FastAPI(
        title=pages.TITLE, version=version("lccl"), openapi_url=None, redirect_slashes=False,
        routes=[route(operation, access) for operation in operations],
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        summary="Classifies images with ResNets that skip work; every request chooses how much.",
        lifespan=lifespan,
    )  # fmt: skip


def _change_together(registry: Registry, everywhere: Everywhere) -> None:
    for act in (registry.load, registry.unload, registry.adopt):
        everywhere.add(act.__name__, partial(_change, act))

    async def served() -> list[tuple[str, str, str]]:
        return registry.served()

    everywhere.add("served", served)


async def _change(act: Callable[..., object], *args: object) -> None:
    """Change the models of this process."""
    await asyncio.to_thread(act, *args)


def _procedures(
    settings: Settings,
    exchange: Exchange,
    pipeline: Pipeline,
    health: Health,
    registry: Registry,
    everywhere: Everywhere,
    state: State,
) -> "list[Procedure]":
    """All methods of gRPC; work that is admitted counts with HTTP's, whose admission is made with the server."""
    from .api.grpc import infer, models

    def admitted(scope: Scope) -> AbstractContextManager[None]:
        admission: AdmissionControl = state.admission
        return admission.admitted(scope)

    most = settings.max_images
    return [
        infer.infer(exchange, pipeline, most, admitted),
        *models.procedures(exchange, registry, health, most),
        *models.repository(registry, everywhere),
    ]


def _grpc(
    settings: Settings,
    certificates: Certificates | None,
    observer: RequestObserver,
    access: AccessControl,
    bodies: BodyMemory,
    health: Health,
    procedures: "Callable[[], list[Procedure]]",
) -> "GrpcPort":
    """The Open Inference Protocol over gRPC, whose packages are loaded for it alone."""
    from .api.grpc.calls import Calls
    from .api.grpc.standard import Standard
    from .transport.grpc import GrpcPort

    calls = Calls(
        observer, access, bodies, settings.request_timeout_s,
        scheme="http" if certificates is None else "https", proxies=behind_proxies(settings.trusted_proxies),
    )  # fmt: skip
    standard = Standard(health, reflection=settings.docs)
    handler = calls.handler(procedures())

    def register(server: "grpc.aio.Server") -> None:
        server.add_generic_rpc_handlers((handler,))
        standard.add_to(server)

    return GrpcPort(settings, certificates, register, calls.under_way, standard.drain)


def _operations(
    settings: Settings,
    exchange: Exchange,
    pipeline: Pipeline,
    health: Health,
    registry: Registry,
    bodies: BodyMemory,
    metrics: Metrics,
    everywhere: Everywhere,
    page: bytes,
) -> list[Operation]:
    """All routes, the pages' only with a page that documents the others."""
    most = settings.max_images
    return [
        *classify.operations(exchange, metrics.rejected, most),
        *infer.operations(exchange, pipeline, most),
        *skip_map.operations(exchange, pipeline, most),
        *operators.operations(health, metrics.registry, everywhere),
        *v1_models.operations(exchange, registry, settings.max_body_bytes, settings.max_pixels, most),
        *v2_models.operations(exchange, registry, health, most),
        *v2_models.repository(registry, bodies, everywhere),
        *([*pages.documentation(page), pages.assets(), *pages.playground()] if page else ()),
    ]


def _observer(
    app: FastAPI, settings: Settings, metrics: Metrics, page: bytes, tracing: Tracing | None
) -> RequestObserver:
    return RequestObserver(
        app.router, metrics, {pages.PAGE: content_security_policy(page)} if page else {}, tracing,
        is_our_name=host_check(settings.allowed_hosts, settings.host),
        shared=SharedOrigins(settings.cors_origins) if settings.cors_origins else None,
    )  # fmt: skip


def _load_models(
    settings: Settings, sources: ModelSources, metrics: Metrics, cost: CostModel, batcher: WorkBatcher
) -> Registry:
    """Load all models; what is learnt and told of each begins and ends with it."""
    policy = SigningPolicy.load(settings.signing_policy) if settings.signing_policy else None

    def begin(model: ServedModel) -> None:
        warm_up(model, cost)
        model.passed_at = time.monotonic()
        metrics.model_info.labels(*_info(model)).set(1)
        name = model.name  # not the model, which the metric would keep in memory
        metrics.queue_depth.labels(name).set_function(
            lambda: sum(batcher.depth(served.key) for served in registry.versions(name))
        )
        for gpu in gpus_in_use():
            for kind in KINDS:
                metrics.gpu_memory.labels(f"cuda:{gpu}", kind).set_function(partial(memory, gpu, kind))
        log.info(
            "serving %s version %s", model.name, model.version,
            extra={"model": model.name, "engine": model.engine.name, "digest": model.bundle.digest},
        )  # fmt: skip

    def end(model: ServedModel) -> None:
        cost.forget(model.key)
        batcher.forget(model.key)
        if _info(model) not in map(_info, registry):  # read anew, it may be the same
            metrics.model_info.remove(*_info(model))

    compile_bundle = partial(
        compile_network, device=settings.device, precision=settings.precision, engine=settings.engine,
        threads=settings.compute_threads, streams=settings.compute_streams, instruction_set=settings.instruction_set,
    )  # fmt: skip
    read = policy.read if policy else lambda _, home: load(home)
    registry = Registry(
        sources.folders, read, compile_bundle, settings.default_model, begin, end, fetched=sources.fetched
    )
    sources.start()
    registry.load_all()
    if all(model.engine.name == "cpu" for model in registry):
        torch.set_num_threads(1)  # the engine has threads of its own; torch is done
    else:
        torch.set_num_threads(settings.compute_threads or min(torch.get_num_threads(), find_cores().count))
    return registry


def _shared_rates(settings: Settings, local: RateLimits, metrics: Metrics) -> SharedRates | None:
    store = settings.rate_limit_store
    return None if store is None else SharedRates(store, local, metrics.rate_limit_store_up.set)


def _info(model: ServedModel) -> tuple[str, str, str, str, str]:
    return model.name, model.version, model.engine.name, model.engine.precision, model.bundle.digest[:12]


def _make_batcher(settings: Settings) -> WorkBatcher:
    return Batcher(
        settings.queue_limit, lambda work: max(1, work.model.engine.batch_limit // work.model.engine.streams),
        time.monotonic,
    )  # fmt: skip


def _make_runner(settings: Settings, batcher: WorkBatcher, cost: CostModel, metrics: Metrics) -> Runner:
    brownout = BrownOut(settings.queue_target_ms / 1000 if settings.brownout else math.inf)
    metrics.predicted_wait.set_function(batcher.waiting_s)
    metrics.brownout_level.set_function(lambda: brownout.level)
    return Runner(batcher, cost, brownout, Accounting(metrics).enter)


def _make_decoders(settings: Settings) -> Decoders:
    cores = find_cores()
    log.info("cores to compute on: %d; %s", cores.count, cores.source)
    return Decoders(settings.decode_threads or cores.count + 1, settings.max_decoding_pixels)


def _lifespan(
    settings: Settings,
    sources: ModelSources,
    registry: Registry,
    batcher: WorkBatcher,
    runner: Runner,
    self_test: SelfTest,
    decoders: Decoders,
    tracing: Tracing | None,
    keys: KeyRing,
    shared: SharedRates | None,
    everywhere: Everywhere,
) -> Lifespan[FastAPI]:
    """Start the device threads and background tasks with the application, and end them with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runner.start(asyncio.get_running_loop(), max(model.engine.streams for model in registry))
        rounds = [repeat("a round of self-tests", settings.self_test_interval_s, self_test.begin)]
        if settings.api_keys is not None:
            rounds.append(repeat("a look at the API keys", KEYS_S, partial(asyncio.to_thread, keys.refresh)))
        if settings.watch_models_s:
            look = partial(asyncio.to_thread, registry.refresh)
            rounds.append(repeat("a look at the folder of models", settings.watch_models_s, look))
        if settings.fetch_models_s and sources.fetched:
            rounds.append(repeat("a fetch of models", settings.fetch_models_s, partial(_fetch, sources, registry)))
        if shared is not None:
            await shared.look()
            rounds.append(repeat("a look at the store of rates", LOOK_S, shared.look))
        tasks = [asyncio.create_task(one) for one in rounds]
        grpc: GrpcPort | None = app.state.grpc
        if grpc is not None and everywhere.serves_at_once:
            await grpc.start()
        elif grpc is not None:
            tasks.append(asyncio.create_task(grpc.start_after(everywhere.serving())))
        yield
        if grpc is not None:
            await grpc.close()
        for task in tasks:
            task.cancel()
        if shared is not None:
            await shared.close()
        self_test.close()
        batcher.close()
        await asyncio.to_thread(runner.join, settings.drain_timeout_s)
        decoders.close()
        registry.close()
        if tracing is not None:
            tracing.close()

    return lifespan


async def _fetch(sources: ModelSources, registry: Registry) -> None:
    """Fetch what is new, and take it over."""
    await call_beside(sources.refresh)
    await asyncio.to_thread(registry.refresh)


async def _reload(keys: KeyRing, sources: ModelSources, registry: Registry) -> None:
    """Read the API keys again if their file changed, fetch models, and look at their folders once."""
    log.info("reloading: SIGHUP")
    refreshes: dict[str, Callable[[], Awaitable[None]]] = {
        "API keys": partial(asyncio.to_thread, keys.refresh), "models": partial(_fetch, sources, registry),
    }  # fmt: skip
    for what, refresh in refreshes.items():
        try:
            await refresh()
        except Exception:
            log.exception("the %s that changed could not be taken over", what)
