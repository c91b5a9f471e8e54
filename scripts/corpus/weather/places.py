"""Places of the weather dialogues, and what Open-Meteo's two services would say of them.

cities.csv: GeoNames (CC BY 4.0), elevations rounded. Replies have the shapes of the real
services, absent fields included; the weather in them is made up, plausible for place and month.
"""

from __future__ import annotations

import csv
import datetime
import math
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

CITIES = Path(__file__).with_name("cities.csv")
UNITS = {
    "temperature_2m": "°C", "apparent_temperature": "°C", "temperature_2m_max": "°C",
    "temperature_2m_min": "°C", "precipitation_sum": "mm", "precipitation_probability_max": "%",
    "snowfall_sum": "cm", "wind_speed_10m": "km/h", "wind_speed_10m_max": "km/h",
    "wind_gusts_10m_max": "km/h", "uv_index_max": "", "weather_code": "wmo code",
    "sunrise": "iso8601", "sunset": "iso8601", "time": "iso8601", "interval": "seconds",
    "relative_humidity_2m": "%", "precipitation_probability": "%",
}  # fmt: skip
WMO = {0: "clear sky", 1: "mainly clear", 2: "partly cloudy", 3: "overcast", 45: "fog",
       51: "light drizzle", 61: "light rain", 63: "moderate rain", 65: "heavy rain",
       71: "light snow", 73: "moderate snow", 80: "rain showers", 95: "thunderstorms"}  # fmt: skip


class Place(NamedTuple):
    id: int
    name: str
    latitude: float
    longitude: float
    elevation: float
    country_code: str
    country: str
    admin1: str
    timezone: str
    population: int

    @property
    def full(self) -> str:
        """'Springfield, Illinois' or 'Oslo, Norway'."""
        region = self.admin1 or self.country
        return self.name if region == self.name else f"{self.name}, {region}"


def load() -> list[Place]:
    """All places, in the file's order."""
    kinds = (int, str, float, float, float, str, str, str, str, int)
    with open(CITIES, encoding="utf-8", newline="") as f:
        lines = csv.reader(f)
        next(lines)
        return [Place(*(k(v) for k, v in zip(kinds, line, strict=True))) for line in lines]


def geocoding(places: list[Place], random: Random) -> dict[str, Any]:
    """The reply of /v1/search; where nothing is found it has no `results`."""
    results = []
    for place in places:
        item = {k: v for k, v in place._asdict().items() if v != ""}
        item["feature_code"] = "PPLC" if place.population > 3_000_000 else "PPL"
        if random.random() < 0.15:  # the real service leaves fields out too
            item.pop(random.choice(["country_code", "population", "elevation"]))
        results.append(item)
    timing = {"generationtime_ms": round(random.uniform(0.1, 1.2), 8)}
    return {"results": results} | timing if results else timing


class Sky:
    """The made-up weather of one place from `first` on, the same at every question."""

    def __init__(self, place: Place, first: datetime.date, random: Random):
        self.place, self.first, self.random = place, first, random
        self._days: dict[int, dict[str, Any]] = {}
        self.grid = {  # the service answers for the nearest point of its grid
            "latitude": round(place.latitude + random.uniform(-0.03, 0.03), 6),
            "longitude": round(place.longitude + random.uniform(-0.03, 0.03), 6),
        }

    def day(self, ahead: int) -> dict[str, Any]:
        """All daily values `ahead` days after `first`."""
        if ahead not in self._days:
            self._days[ahead] = self._make(self.first + datetime.timedelta(days=ahead))
        return self._days[ahead]

    def _make(self, date: datetime.date) -> dict[str, Any]:
        r, lat = self.random, self.place.latitude
        season = math.cos((date.timetuple().tm_yday - 200) / 365 * 2 * math.pi)
        season = season if lat >= 0 else -season
        mean = 28 - 0.33 * max(abs(lat) - 12, 0) + season * abs(lat) * 0.19
        high = round(mean - self.place.elevation * 0.0055 + r.gauss(2, 3.5), 1)
        low = round(high - r.uniform(4, 11), 1)
        wet = r.random()
        rain = round(r.expovariate(0.18), 1) if wet > 0.55 else 0.0
        snow = round(rain * 0.7, 2) if high < 1.5 else 0.0
        if snow:
            code = 73 if snow > 3 else 71
        elif rain:
            code = r.choice([65, 95] if rain > 9 else [63, 80] if rain > 3 else [51, 61])
        else:
            code = r.choice([0, 1, 2, 3, 45])
        wind = round(r.uniform(5, 42), 1)
        length = 12 + 0.1 * lat * math.cos((date.timetuple().tm_yday - 172) / 365 * 2 * math.pi)
        length = min(max(length, 5.5), 18.5)
        noon = 12 * 60 + r.randint(-25, 25)
        rise, fall = noon - int(length * 30), noon + int(length * 30)
        return {
            "time": date.isoformat(), "weather_code": code,
            "temperature_2m_max": high, "temperature_2m_min": low,
            "precipitation_sum": rain, "snowfall_sum": snow,
            "precipitation_probability_max": min(100, int(wet * 70) + (30 if rain else 0)),
            "wind_speed_10m_max": wind, "wind_gusts_10m_max": round(wind * r.uniform(1.4, 2.1), 1),
            "uv_index_max": round(max(0.2, 9 - abs(lat) * 0.09 + season * 2.5), 2),
            "sunrise": f"{date}T{rise // 60:02d}:{rise % 60:02d}",
            "sunset": f"{date}T{fall // 60:02d}:{fall % 60:02d}",
        }  # fmt: skip

    def current(self, hour: int) -> dict[str, Any]:
        """The `current` block at `hour` of the first day."""
        day, r = self.day(0), self.random
        span = day["temperature_2m_max"] - day["temperature_2m_min"]
        share = 0.5 - 0.5 * math.cos((hour - 3) / 24 * 2 * math.pi)
        now = round(day["temperature_2m_min"] + span * share, 1)
        return {
            "time": f"{day['time']}T{hour:02d}:{r.choice(['00', '15', '30', '45'])}",
            "interval": 900, "temperature_2m": now,
            "apparent_temperature": round(now - r.uniform(-1, 4), 1),
            "relative_humidity_2m": r.randint(28, 97),
            "wind_speed_10m": round(day["wind_speed_10m_max"] * r.uniform(0.3, 0.9), 1),
            "weather_code": day["weather_code"],
        }  # fmt: skip

    def reply(
        self, names: dict[str, list[str]], days: range, current: dict | None
    ) -> dict[str, Any]:
        """The reply of /v1/forecast for the asked variables, as the service orders its fields."""
        r, place = self.random, self.place
        local = datetime.datetime.combine(self.first, datetime.time(12), ZoneInfo(place.timezone))
        offset = int(local.utcoffset().total_seconds())
        hours = f"{offset / 3600:+g}" if offset else ""
        body: dict[str, Any] = {
            **self.grid,
            "generationtime_ms": round(r.uniform(0.02, 0.4), 8),
            "utc_offset_seconds": offset, "timezone": place.timezone,
            "timezone_abbreviation": f"GMT{hours}", "elevation": place.elevation,
        }  # fmt: skip
        if current is not None:
            asked = ["time", "interval", *names["current"]]
            body["current_units"] = {n: UNITS[n] for n in asked}
            body["current"] = {n: current[n] for n in asked}
        if "daily" in names:
            asked = ["time", *names["daily"]]
            body["daily_units"] = {n: UNITS[n] for n in asked}
            body["daily"] = {n: [self.day(d)[n] for d in days] for n in asked}
        return body
