"""Weather dialogues with tool calls, for any chat template that knows tools.

One call a turn (Llama 3.1), call ids of nine letters and digits (Mistral), arguments as an
object. Deterministic by seed, all distinct. The words are in phrases.py.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from corpus.messages import tool_call
from corpus.rows import Message
from corpus.weather import phrases, places

SOURCE = "generated: weather"


def _tool(name: str, about: str, properties: dict, required: list[str]) -> dict:
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": about, "parameters": parameters}
    return {"type": "function", "function": function}


def _names(about: str) -> dict:
    return {"type": "array", "items": {"type": "string"}, "description": about}


TOOLS = [
    _tool(
        "geocoding",
        "Find places by name: coordinates, country, time zone, population.",
        {
            "name": {"type": "string", "description": "Name of the place, without country"},
            "count": {"type": "integer", "description": "How many results at most (default 10)"},
        },
        ["name"],
    ),
    _tool(
        "forecast",
        "Weather at coordinates: now, and by day for up to 16 days.",
        {
            "latitude": {"type": "number", "description": "Degrees north"},
            "longitude": {"type": "number", "description": "Degrees east"},
            "current": _names("Variables for now, such as temperature_2m"),
            "daily": _names("Daily variables, such as temperature_2m_max"),
            "forecast_days": {"type": "integer", "description": "Days from today on, 1 to 16"},
            "timezone": {"type": "string", "description": "IANA name, or auto"},
        },
        ["latitude", "longitude"],
    ),
]


def dialogues(size: int, seed: int) -> Iterator[dict[str, Any]]:
    """`size` rows {"messages", "tools", "topic", "source"}; the same for the same seed."""
    cities = places.load()
    seen: set[str] = set()
    number = 0
    while len(seen) < size:
        talk = _Dialogue(Random(f"{seed}:{number}"), cities)
        number += 1
        row = talk.make()
        questions = json.dumps([m for m in row["messages"] if m["role"] == "user"])
        if questions not in seen:
            seen.add(questions)
            yield row


class _Dialogue:
    """One dialogue in the making: messages are appended turn by turn."""

    def __init__(self, random: Random, cities: list[places.Place]):
        self.random, self.cities = random, cities
        self.place = random.choice(cities)
        self.today = datetime.date(2025, 1, 1) + datetime.timedelta(days=random.randrange(365))
        self.messages: list[Message] = []
        self.skies: dict[int, places.Sky] = {}

    def make(self) -> dict[str, Any]:
        kinds = {self.by_name: 46, self.by_coordinates: 10, self.two_days: 12, self.compare: 10,
                 self.which_one: 6, self.misspelt: 8, self.without_tools: 8}  # fmt: skip
        kind = self.random.choices(list(kinds), list(kinds.values()))[0]
        if self.random.random() < 0.7:
            self.say("system", self.random.choice(phrases.SYSTEM))
        kind()
        return {"messages": self.messages, "tools": TOOLS, "topic": "weather", "source": SOURCE}

    # --- the kinds of dialogue ---

    def by_name(self) -> None:
        aspect, ahead = self.question(phrases.ASK)
        self.locate(self.place)
        self.answer(aspect, ahead)

    def by_coordinates(self) -> None:
        aspect, ahead = self.question(phrases.ASK_COORDINATES)
        self.answer(aspect, ahead, where=self.random.choice(phrases.THERE))

    def two_days(self) -> None:
        aspect, ahead = self.question(phrases.ASK, days=(0, 1, 2, 3))
        self.locate(self.place)
        self.answer(aspect, ahead)
        later = ahead + self.random.choice((1, 2, 3))
        follow = self.random.choice(phrases.FOLLOW_UP)
        self.say("user", follow.format(when=self.when(later)))
        self.answer(aspect, later)

    def compare(self) -> None:
        self.place = self.namesakes(self.place.name)[0]
        others = [c for c in self.cities if c.name != self.place.name]
        other = self.namesakes(self.random.choice(others).name)[0]
        aspect, ahead = self.random.choice(("overview", "rain", "wind")), self.random.randrange(5)
        ask = self.random.choice(phrases.COMPARE[aspect])
        self.say("user", ask.format(a=self.place.name, b=other.name, when=self.when(ahead)))
        days = []
        for place in (self.place, other):
            self.locate(place)
            days.append(self.forecast(place, aspect, ahead))
        measure = phrases.MEASURE[aspect]
        first, second = (d[measure] for d in days)
        ranked = [self.place.name, other.name] if first >= second else [other.name, self.place.name]
        template = self.random.choice(
            phrases.COMPARED[aspect] if first != second else phrases.EQUAL
        )
        self.say("assistant", template.format(
            more=ranked[0], less=ranked[1], high=max(first, second), low=min(first, second),
            when=self.when(ahead), unit=places.UNITS[measure]))  # fmt: skip

    def which_one(self) -> None:
        double = [c for c in self.cities if len(self.namesakes(c.name)) > 1]
        self.place = self.random.choice(double)
        same = self.namesakes(self.place.name)
        aspect, ahead = self.question(phrases.ASK, name=self.place.name)
        arguments = {"name": self.place.name, "count": 5}
        self.call("geocoding", arguments, places.geocoding(same, self.random))
        choices = " or ".join(c.full for c in same)
        self.say("assistant", self.random.choice(phrases.WHICH).format(choices=choices))
        reply = self.random.choice(phrases.THIS_ONE)
        self.say("user", reply.format(place=self.place.admin1 or self.place.country))
        self.answer(aspect, ahead, where=self.place.full)

    def misspelt(self) -> None:
        name = self.place.name
        at = self.random.randrange(1, len(name) - 1)
        wrong = name[:at] + self.random.choice("xqzwk") + name[at:]
        aspect, ahead = self.question(phrases.ASK, name=wrong)
        self.call("geocoding", {"name": wrong, "count": 1}, places.geocoding([], self.random))
        self.say("assistant", self.random.choice(phrases.NOT_FOUND).format(place=wrong))
        if self.random.random() < 0.7:
            self.say("user", self.random.choice(phrases.CORRECTION).format(place=self.place.full))
            self.locate(self.place)
            self.answer(aspect, ahead)

    def without_tools(self) -> None:
        ask, reply = self.random.choice(phrases.NO_TOOL)
        facts = {"place": self.place.full, "days": self.random.randrange(17, 60)}
        facts["date"] = (
            f"{self.today - datetime.timedelta(days=self.random.randrange(400, 9000)):%d %B %Y}"
        )
        self.say("user", ask.format(**facts))
        self.say("assistant", reply.format(**facts))

    # --- turns ---

    def say(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    def call(self, name: str, arguments: dict, reply: dict) -> None:
        """A call and its result."""
        message = tool_call(name, arguments, len(self.messages))
        self.messages.append(message)
        self.messages.append(
            {"role": "tool", "name": name, "tool_call_id": message["tool_calls"][0]["id"],
             "content": json.dumps(reply, ensure_ascii=False)}
        )  # fmt: skip

    def question(
        self, templates: dict, days=(0, 0, 1, 1, 1, 2, 3, 4, 5), name: str = ""
    ) -> tuple[str, int]:
        """The user's first turn; returns (what is asked about, days ahead)."""
        aspect = self.random.choice([a for a in phrases.ASPECTS if a in templates])
        ahead = 0 if aspect == "now" else self.random.choice(days)
        template = self.random.choice(templates[aspect])
        place = name or self.random.choice((self.place.name, self.place.full))
        if not name and self.place != self.namesakes(self.place.name)[0]:
            place = self.place.full  # the smaller Paris is asked for as "Paris, Texas"
        self.say("user", template.format(
            place=place, when=self.when(ahead), latitude=self.place.latitude,
            longitude=self.place.longitude))  # fmt: skip
        return aspect, ahead

    def namesakes(self, name: str) -> list[places.Place]:
        """All places of that name, the biggest first, as the geocoding service orders them."""
        return sorted((c for c in self.cities if c.name == name), key=lambda c: -c.population)

    def locate(self, place: places.Place) -> None:
        """Geocode: the call asks by name alone and the place is among the results."""
        same = self.namesakes(place.name)
        arguments = {"name": place.name, "count": 1 if len(same) == 1 else 5}
        self.call("geocoding", arguments, places.geocoding(same, self.random))

    def forecast(self, place: places.Place, aspect: str, ahead: int) -> dict[str, Any]:
        """Call for the weather `ahead` days from today; returns that day's (or now's) values."""
        sky = self.skies.setdefault(place.id, places.Sky(place, self.today, self.random))
        names = phrases.ASPECTS[aspect]
        arguments = {"latitude": place.latitude, "longitude": place.longitude, **names}
        current = sky.current(self.random.randrange(6, 23)) if "current" in names else None
        if current is None:
            arguments["forecast_days"] = ahead + 1
        reply = sky.reply(names, range(ahead + 1), current)
        values = current or {name: reply["daily"][name][ahead] for name in reply["daily"]}
        if aspect == "uv" and self.random.random() < 0.25:
            reply["daily"]["uv_index_max"][ahead] = None  # the service has such gaps
            values["uv_index_max"] = None
        self.call("forecast", arguments | {"timezone": "auto"}, reply)
        return values

    def answer(self, aspect: str, ahead: int, where: str = "") -> None:
        """Call for the forecast, then say what it says."""
        values = self.forecast(self.place, aspect, ahead)
        self.say("assistant", phrases.answer(
            aspect, values, where or self.place.name, self.when(ahead), self.random))  # fmt: skip

    def when(self, ahead: int) -> str:
        """'today', 'tomorrow', 'in 3 days': words that need no date to be known."""
        named = ("today", "tomorrow", "the day after tomorrow")
        return named[ahead] if ahead < len(named) else f"in {ahead} days"
