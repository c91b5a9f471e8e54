"""What is said in the weather dialogues: questions and answers, with {fields} to fill."""

from __future__ import annotations

from random import Random
from typing import Any

from corpus.weather.places import WMO

# What can be asked about, with the variables of the forecast service that answer it
ASPECTS = {
    "now": {"current": ["temperature_2m", "apparent_temperature", "relative_humidity_2m",
                        "wind_speed_10m", "weather_code"]},
    "overview": {"daily": ["weather_code", "temperature_2m_max", "temperature_2m_min",
                           "precipitation_probability_max"]},
    "rain": {"daily": ["precipitation_sum", "precipitation_probability_max"]},
    "wind": {"daily": ["wind_speed_10m_max", "wind_gusts_10m_max"]},
    "snow": {"daily": ["snowfall_sum", "temperature_2m_min"]},
    "sun": {"daily": ["sunrise", "sunset"]},
    "uv": {"daily": ["uv_index_max"]},
}  # fmt: skip
MEASURE = {
    "overview": "temperature_2m_max",
    "rain": "precipitation_sum",
    "wind": "wind_gusts_10m_max",
}
SYSTEM = [
    "You are a weather assistant. Look up places and forecasts with the tools.",
    "Answer questions about the weather. Use the tools for facts; never guess a forecast.",
    "You help travellers with the weather. Call one tool at a time.",
    "You are a helpful assistant with access to Open-Meteo's geocoding and forecast services.",
]
ASK = {
    "now": [
        "What's the weather like in {place} right now?",
        "How warm is it in {place} at the moment?",
        "Current conditions in {place}, please.",
        "I'm about to leave the house in {place}. What's it like outside?",
        "Is it cold in {place} now?",
    ],
    "overview": [
        "What will the weather be in {place} {when}?",
        "Give me the forecast for {place} {when}.",
        "How warm does it get in {place} {when}?",
        "We have a picnic planned in {place} {when}. What should we expect?",
        "I'm packing for {place}. What are the temperatures {when}?",
        "Weather {when}, {place}?",
    ],
    "rain": [
        "Will it rain in {place} {when}?",
        "Do I need an umbrella in {place} {when}?",
        "How likely is rain {when} in {place}?",
        "I want to dry the laundry outside in {place} {when}. Good idea?",
        "How many millimetres of rain are forecast for {place} {when}?",
    ],
    "wind": [
        "How windy is it in {place} {when}?",
        "I'd like to go sailing near {place} {when}. How strong is the wind?",
        "Any strong gusts in {place} {when}?",
        "Is {place} too windy for cycling {when}?",
    ],
    "snow": [
        "Is there snow coming in {place} {when}?",
        "How much snow will fall in {place} {when}?",
        "Should I put winter tyres on for {place} {when}?",
    ],
    "sun": [
        "When does the sun rise in {place} {when}?",
        "What time is sunset in {place} {when}?",
        "I'm photographing {place} {when} and need sunrise and sunset.",
    ],
    "uv": [
        "How high is the UV index in {place} {when}?",
        "Do the children need sunscreen in {place} {when}?",
        "Could I get sunburnt in {place} {when}?",
    ],
}
ASK_COORDINATES = {
    "now": ["What's the weather at {latitude}, {longitude} right now?",
            "We are anchored at latitude {latitude}, longitude {longitude}. Conditions now?"],
    "overview": ["Forecast for latitude {latitude}, longitude {longitude} {when}, please.",
                 "Our camp is at {latitude}, {longitude}. What's the weather {when}?"],
    "rain": ["Will it rain at {latitude}, {longitude} {when}?",
             "Rain {when} at the site {latitude} / {longitude}?"],
    "wind": ["How strong is the wind at {latitude}, {longitude} {when}?",
             "Drone flight {when} at {latitude}, {longitude}: what gusts are forecast?"],
    "sun": ["Sunrise and sunset at {latitude}, {longitude} {when}?"],
}  # fmt: skip
THERE = ["at that position", "there", "at those coordinates"]
FOLLOW_UP = [
    "And {when}?",
    "What about {when}?",
    "Thanks. How does it look {when}?",
    "Good to know. And {when}?",
]
COMPARE = {
    "overview": ["Is it warmer in {a} or in {b} {when}?", "{a} or {b}: where is it hotter {when}?"],
    "rain": ["Where will it rain more {when}, {a} or {b}?",
             "I can go to {a} or {b} {when}. Which one is drier?"],
    "wind": ["Which is windier {when}, {a} or {b}?",
             "Kite flying {when}: has {a} or {b} the stronger gusts?"],
}  # fmt: skip
COMPARED = {
    "overview": ["{more} is warmer {when}: up to {high} {unit}, against {low} {unit} in {less}.",
                 "It gets hotter in {more} ({high} {unit}) than in {less} ({low} {unit}) {when}."],
    "rain": ["{less} stays drier {when}: {low} {unit} against {high} {unit} in {more}.",
             "More rain falls in {more} {when}, {high} {unit}; {less} gets {low} {unit}."],
    "wind": ["{more} is windier {when}, with gusts to {high} {unit}; {less} sees {low} {unit}.",
             "Gusts reach {high} {unit} in {more} and {low} {unit} in {less} {when}."],
}  # fmt: skip
EQUAL = ["No difference {when}: {more} and {less} both have {high} {unit}."]
WHICH = [
    "I found more than one place with that name: {choices}. Which one do you mean?",
    "Do you mean {choices}?",
]
THIS_ONE = ["{place}, please.", "The one in {place}.", "I mean {place}."]
NOT_FOUND = [
    "I could not find a place called {place}. Could you check the spelling?",
    "The search has no result for {place}. How is it spelt, and in which country is it?",
]
CORRECTION = ["Sorry, {place}.", "I meant {place}.", "Oh, a typo: {place}."]
NO_TOOL = [
    ("Can you give me a forecast for {place} in {days} days?",
     "That is too far ahead: the forecast reaches 16 days, and you ask for {days}. Ask me again "
     "closer to the date and I will look up {place}."),
    ("Please book me a hotel in {place} from {date} on.",
     "I cannot make bookings. I can tell you what weather to expect in {place} once you know your "
     "dates."),
    ("Who is the mayor of {place}?",
     "I only have tools for places and weather forecasts, so I cannot look that up. Shall I check "
     "the weather in {place} instead?"),
    ("What was the weather in {place} on {date}?",
     "My forecast tool looks ahead, not back, so I cannot say what it was like in {place} on "
     "{date}."),
    ("Thanks, that was all. Next week I'm off to {place}!",
     "You're welcome. Have a good trip to {place}, and ask me for the forecast before you leave."),
    ("What can you do for my trip to {place}?",
     "I can find {place} on the map and look up the current weather there and the forecast for up "
     "to 16 days: temperatures, rain, snow, wind, UV index, sunrise and sunset."),
]  # fmt: skip


def answer(aspect: str, v: dict[str, Any], where: str, when: str, random: Random) -> str:
    """What the values say, in a sentence or two. `where`: 'Oslo', 'there', 'at that position'."""
    spot = where if where.startswith(("at ", "there")) else f"in {where}"
    sky = WMO.get(v.get("weather_code"), "")
    return random.choice(_ANSWERS[aspect](v, spot, when, sky))


def _rain(v: dict[str, Any], spot: str, when: str, sky: str) -> list[str]:
    chance, amount = v["precipitation_probability_max"], v["precipitation_sum"]
    if amount:
        return [
            f"Yes, take an umbrella: {amount} mm of rain are forecast {spot} {when}, with a "
            f"probability of {chance} %.",
            f"Rain is likely {spot} {when}: {amount} mm in total, probability up to {chance} %.",
        ]
    return [
        f"No rain is forecast {spot} {when}; the probability is at most {chance} %.",
        f"It should stay dry {spot} {when} (0 mm, probability {chance} %).",
    ]


def _snow(v: dict[str, Any], spot: str, when: str, sky: str) -> list[str]:
    if v["snowfall_sum"]:
        return [f"Yes, about {v['snowfall_sum']} cm of snow {spot} {when}, and it cools down to "
                f"{v['temperature_2m_min']} °C."]  # fmt: skip
    return [
        f"No snow is forecast {spot} {when}. The lowest temperature is "
        f"{v['temperature_2m_min']} °C.",
        f"None {when} {spot}; it gets no colder than {v['temperature_2m_min']} °C.",
    ]


def _wind(v: dict[str, Any], spot: str, when: str, sky: str) -> list[str]:
    speed, gusts = v["wind_speed_10m_max"], v["wind_gusts_10m_max"]
    word = "light" if speed < 12 else "moderate" if speed < 29 else "strong"
    return [
        f"The wind {spot} is {word} {when}: up to {speed} km/h, with gusts of {gusts} km/h.",
        f"Expect a {word} wind {spot} {when}, {speed} km/h at most and gusts to {gusts} km/h.",
    ]


def _uv(v: dict[str, Any], spot: str, when: str, sky: str) -> list[str]:
    index = v["uv_index_max"]
    if index is None:
        return [f"The forecast leaves the UV index {spot} {when} empty. Ask again later."]
    word = "low" if index < 3 else "moderate" if index < 6 else "high" if index < 8 else "very high"
    advice = "no protection is needed" if index < 3 else "use sunscreen and seek shade at noon"
    return [f"The UV index {spot} reaches {index} {when}, which is {word}: {advice}."]


_ANSWERS = {
    "now": lambda v, spot, when, sky: [
        f"It is {v['temperature_2m']} °C {spot} now and feels like {v['apparent_temperature']} °C, "
        f"with {sky} and wind at {v['wind_speed_10m']} km/h.",
        f"Right now {spot}: {sky}, {v['temperature_2m']} °C (feels like "
        f"{v['apparent_temperature']} °C), humidity {v['relative_humidity_2m']} %.",
    ],
    "overview": lambda v, spot, when, sky: [
        f"Expect {sky} {spot} {when}, between {v['temperature_2m_min']} and "
        f"{v['temperature_2m_max']} °C. The chance of rain is "
        f"{v['precipitation_probability_max']} %.",
        f"The weather {spot} {when}: {sky}, high {v['temperature_2m_max']} °C, low "
        f"{v['temperature_2m_min']} °C, rain probability {v['precipitation_probability_max']} %.",
    ],
    "rain": _rain,
    "wind": _wind,
    "snow": _snow,
    "uv": _uv,
    "sun": lambda v, spot, when, sky: [
        f"The sun rises {spot} at {v['sunrise'][11:]} and sets at {v['sunset'][11:]} {when}, "
        f"local time.",
        f"Sunrise {spot} is at {v['sunrise'][11:]}, sunset at {v['sunset'][11:]} {when}.",
    ],
}
