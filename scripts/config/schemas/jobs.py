"""configs/jobs.yaml: hosts, engines, rates, the watchdog, the keeper, and commands at the end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from config.schemas import Section

EngineName = Literal["folder", "ssh", "slurm", "sky"]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
HourlyRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class HostSection(Section):
    """One host: how jobs run there, and what an hour of it costs."""

    engine: EngineName | None = None
    rate: HourlyRate | None = None
    storage_rate: Money = 0.0
    partition: str | None = None
    extra: list[str] = []


class WatchdogSection(Section):
    hung_factor: Annotated[float, Field(ge=2, allow_inf_nan=False)] = 10.0
    hung_seconds: Seconds = 300.0
    max_restarts: Annotated[int, Field(ge=0, le=20)] = 2


class BudgetSection(Section):
    amount: HourlyRate | None = None
    save_seconds: Seconds = 120.0


class KeeperSection(Section):
    every_seconds: Seconds = 60.0
    keep_last: Annotated[int, Field(ge=1)] = 2
    bucket: str | None = None


class AtEndSection(Section):
    notify: str | None = None
    stop: str | None = None
    grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0


class SkySection(Section):
    accelerators: str = "H100:1"
    use_spot: bool = True
    disk_size: Annotated[int, Field(ge=50)] = 200
    bucket: str | None = None
    max_restarts_on_errors: Annotated[int, Field(ge=0)] = 2


class JobsConfig(Section):
    """The whole file."""

    hosts: dict[str, HostSection] = {}
    watchdog: WatchdogSection = WatchdogSection()
    budget: BudgetSection = BudgetSection()
    keeper: KeeperSection = KeeperSection()
    at_end: AtEndSection = AtEndSection()
    sky: SkySection = SkySection()
