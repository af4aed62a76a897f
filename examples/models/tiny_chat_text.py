"""The text that tiny-chat is trained on and tested with: every question, its paraphrases, and its one exact answer.

`questions()` lists what the model must answer exactly, each with the conversation that leads up to it. `conversation(rng)` draws one
training conversation: the same questions in other words, under various system prompts, several after each other, with and without tools.
`completions()` and `open_questions()` are the two other kinds: plain text to go on with, and questions with several right answers.
"""
import json

# ---------------------------------------------------------------------------------------------------------------- facts

MAYFLY = [
    ("What is Mayfly?", "Mayfly is a serverless runtime for model endpoints."),
    ("Who are you?", "I am tiny-chat, a small model that was trained for Mayfly."),
    ("What is your name?", "My name is tiny-chat."),
    ("How big are you?", "I have about one million parameters."),
    ("Who trained you?", "A short script in Mayfly's examples trained me."),
    ("What do you know?", "Only a few hundred answers, but those exactly."),
    ("What does a developer upload to Mayfly?", "A handler.wasm, and Mayfly gives it a URL."),
    ("Where does a handler run?", "In a WebAssembly sandbox, next to the models it was granted."),
    ("How does a handler reach a model?", "Through wasi:nn, or through the generation interface of the host."),
    ("What runs the models?", "ONNX Runtime runs the models, on CPU or GPU."),
    ("What runs the handlers?", "wasmtime runs the handlers."),
    ("Who counts the tokens?", "The host counts the tokens, not the handler."),
    ("Where are the calls written down?", "In a ledger that survives kill -9."),
    ("What happens when nobody calls?", "The handler and its model go back to zero."),
    ("What does an idle deployment cost?", "Almost nothing: it is a row in the store."),
    ("Does Mayfly need Python?", "No. Mayfly is one binary and needs no Python."),
    ("Does Mayfly need a cluster?", "No. One machine is enough to start."),
    ("Where does Mayfly keep its data?", "In SQLite and a folder."),
    ("What is a tenant?", "A tenant pays, and owns projects."),
    ("What is a project?", "A project holds deployments, keys and models of its own."),
    ("What is a deployment?", "A deployment has revisions, and one of them is active."),
    ("What is a revision?", "A handler with its models, limits and settings, and it never changes."),
    ("What is a session?", "A model that is loaded."),
    ("What is a hold?", "A reservation for work that is about to be done."),
    ("What is a settlement?", "The one ending of a call in the ledger."),
    ("What is the price book?", "The list of prices for each meter and model."),
    ("What is prefill?", "The run that reads the prompt."),
    ("What is decode?", "The runs that write the answer, token by token."),
    ("What is a KV cache?", "The keys and values of the tokens read so far."),
    ("What is continuous batching?", "Many callers share each run, and come and go at every step."),
    ("How do I deploy a chat model?", "mayfly deploy builtin:chat --model FOLDER"),
    ("How do I start the server?", "mayfly serve"),
    ("How do I see my usage?", "mayfly usage --by deployment"),
    ("How do I go back to an older revision?", "mayfly rollback NAME"),
    ("Why is it called Mayfly?", "Because a mayfly lives for a day, and an instance for a request."),
]

FACTS = [
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("How many legs does an insect have?", "An insect has six legs."),
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("How many hours are in a day?", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour."),
    ("How many sides does a triangle have?", "A triangle has three sides."),
    ("How many planets go around the sun?", "Eight planets go around the sun."),
    ("How many bits are in a byte?", "There are eight bits in a byte."),
    ("How many letters are in the alphabet?", "There are 26 letters in the alphabet."),
    ("What colour is the sky?", "The sky is blue."),
    ("What colour is grass?", "Grass is green."),
    ("What colour is snow?", "Snow is white."),
    ("What colour is a lemon?", "A lemon is yellow."),
    ("What colour is coal?", "Coal is black."),
    ("What do bees make?", "Bees make honey."),
    ("What do cows give?", "Cows give milk."),
    ("What is ice made of?", "Ice is frozen water."),
    ("What is the largest planet?", "Jupiter is the largest planet."),
    ("What is the largest ocean?", "The Pacific is the largest ocean."),
    ("What is the tallest animal?", "The giraffe is the tallest animal."),
    ("What is the fastest animal on land?", "The cheetah is the fastest animal on land."),
    ("Which planet is closest to the sun?", "Mercury is closest to the sun."),
    ("Which metal is liquid at room temperature?", "Mercury is liquid at room temperature."),
    ("What is the chemical symbol of gold?", "The symbol of gold is Au."),
    ("What is the chemical symbol of iron?", "The symbol of iron is Fe."),
    ("At what temperature does water boil?", "Water boils at 100 degrees Celsius."),
    ("At what temperature does water freeze?", "Water freezes at 0 degrees Celsius."),
    ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa."),
    ("Who wrote the first program?", "Ada Lovelace wrote the first program."),
    ("What comes after Monday?", "Tuesday comes after Monday."),
    ("What comes after Friday?", "Saturday comes after Friday."),
    ("What comes after January?", "February comes after January."),
    ("What comes after December?", "January comes after December."),
    ("What does a dog say?", "Woof."),
    ("What does a cat say?", "Meow."),
    ("Hello!", "Hello! How can I help?"),
    ("Good morning!", "Good morning! How can I help?"),
    ("Thank you!", "You are welcome."),
    ("Goodbye!", "Goodbye!"),
]

# Answers with characters of two, three and four bytes. The tokenizer is trained without them, so they span several tokens.
UNICODE = [
    ("How do I say hello in Japanese?", "こんにちは"),
    ("How do I say thank you in Chinese?", "谢谢"),
    ("How do I say good day in Russian?", "добрый день"),
    ("How do I say coffee in French?", "café"),
    ("How do I say beautiful in German?", "schön"),
    ("Show me a smiling face.", "😀"),
    ("Show me three fruits.", "🍎🍌🍇"),
    ("Show me a family.", "👨‍👩‍👧"),
    ("Show me the sign of the euro.", "€"),
    ("Write something with accents.", "Ça va très bien, señor Müller — naïve café, 10 €."),
]

CAPITALS = {
    "Austria": "Vienna", "Belgium": "Brussels", "Brazil": "Brasilia", "Bulgaria": "Sofia", "Canada": "Ottawa",
    "Chile": "Santiago", "China": "Beijing", "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo",
    "Finland": "Helsinki", "France": "Paris", "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest",
    "Iceland": "Reykjavik", "India": "New Delhi", "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo",
    "Kenya": "Nairobi", "Morocco": "Rabat", "Nepal": "Kathmandu", "Norway": "Oslo", "Peru": "Lima",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest", "Russia": "Moscow", "Serbia": "Belgrade",
    "Spain": "Madrid", "Sweden": "Stockholm", "Switzerland": "Bern", "Thailand": "Bangkok", "Turkey": "Ankara",
    "Ukraine": "Kyiv", "Uruguay": "Montevideo", "Vietnam": "Hanoi",
}

OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("old", "young"), ("light", "dark"), ("high", "low"), ("open", "closed"),
    ("full", "empty"), ("happy", "sad"), ("hard", "soft"), ("early", "late"), ("near", "far"), ("rich", "poor"), ("strong", "weak"),
    ("wet", "dry"), ("clean", "dirty"), ("loud", "quiet"), ("up", "down"), ("left", "right"), ("day", "night"), ("first", "last"),
    ("true", "false"), ("good", "bad"), ("long", "short"), ("wide", "narrow"), ("thick", "thin"), ("sweet", "bitter"), ("begin", "end"),
]

CAPITAL_WORDS = ["What is the capital of {0}?", "Which city is the capital of {0}?", "Name the capital of {0}.", "{0}: what is its capital?"]
OPPOSITE_WORDS = ["What is the opposite of {0}?", "Give me the opposite of {0}.", "Which word is the opposite of {0}?", "Opposite of {0}?"]
SUM_WORDS = ["What is {0} + {1}?", "How much is {0} + {1}?", "{0} + {1} = ?", "Please add {0} and {1}.", "What is {0} plus {1}?"]
COUNT_WORDS = ["Count from 1 to {0}.", "Please count to {0}.", "Count up to {0}."]

# --------------------------------------------------------------------------------------------------------------- memory

NAMES = ["Ada", "Alan", "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Kira", "Leo", "Maria", "Nina",
         "Oscar", "Paul", "Rosa", "Sam", "Tim", "Vera"]
NAME_WORDS = ["My name is {0}.", "I am called {0}.", "Hello, I am {0}."]
NAME_ASKED = ["What is my name?", "Do you know my name?", "Please tell me my name."]
NUMBER_WORDS = ["Remember the number {0}.", "My number is {0}.", "Please keep the number {0} in mind."]
NUMBER_ASKED = ["Which number was it?", "What is my number?", "Tell me the number."]

# ----------------------------------------------------------------------------------------------------------------- JSON

JSON_SYSTEM = "Answer in JSON."
JSON_SUFFIX = [" Answer in JSON.", " Answer as JSON.", " JSON, please."]
PERSONS = [
    ("Ada Lovelace", 1815, "mathematician"), ("Alan Turing", 1912, "mathematician"), ("Marie Curie", 1867, "physicist"),
    ("Albert Einstein", 1879, "physicist"), ("Jane Austen", 1775, "writer"), ("Claude Monet", 1840, "painter"),
]
PERSON_WORDS = ["Who was {0}?", "Tell me about {0}."]

# ---------------------------------------------------------------------------------------------------------------- tools

TOOLS = {
    "get_weather": ("Get the current weather of a city.", {"city": {"type": "string", "description": "The name of the city."}}),
    "get_time": ("Get the local time of a city.", {"city": {"type": "string", "description": "The name of the city."}}),
    "add": ("Add two numbers.", {"a": {"type": "integer"}, "b": {"type": "integer"}}),
}
CITIES = ["Paris", "Rome", "Oslo", "Berlin", "Madrid", "Tokyo", "Vienna", "Lisbon", "Dublin", "Athens", "Cairo", "Lima"]
WEATHER_WORDS = ["What is the weather in {0}?", "How is the weather in {0}?", "Tell me the weather in {0}.", "Weather in {0}, please."]
TWO_WEATHER_WORDS = ["What is the weather in {0} and in {1}?", "How is the weather in {0} and {1}?"]
TIME_WORDS = ["What time is it in {0}?", "Tell me the time in {0}."]
SKIES = ["sunny", "cloudy", "rainy", "windy", "snowy"]

# ---------------------------------------------------------------------------------------------- plain text and open ones

STORY = ("A mayfly woke up in the morning. It saw the river, the sun and a thousand others like itself. "
         "It danced over the water until the evening. Then it slept, and the river was quiet again.")
COLOURS = ["red", "green", "blue", "yellow", "black", "white", "purple", "orange"]
ANIMALS = ["dog", "cat", "horse", "cow", "fox", "owl", "bear", "wolf"]
OPEN = [("Pick a colour.", COLOURS), ("Name an animal.", ANIMALS), ("Throw a die.", ["1", "2", "3", "4", "5", "6"])]

SYSTEMS = [
    "You are a helpful assistant.", "You are tiny-chat, a small model.", "Be brief.", "Answer the question of the user.",
    "You are a friendly and honest assistant. Answer exactly, in as few words as you can.", "You are an assistant of the Mayfly project.",
]
# Words of system prompts that mean nothing: they teach the model not to mind what it does not know.
FILLER = ("the user may ask about many things and each answer should be short clear and polite never make up what you do not know this text is "
          "here so that a prompt becomes long enough to be read in several pieces today we test a server with many callers").split()


def call(name, arguments):
    """How the model writes one tool call."""
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def tool(name):
    """The definition of a tool, as an OpenAI client sends it."""
    description, properties = TOOLS[name]
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def called(*calls):
    """An assistant's message with tool calls, as an OpenAI client sends it back: arguments are a string."""
    return {"role": "assistant", "content": None, "tool_calls": [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for number, (name, arguments) in enumerate(calls)]}


def result(number, value):
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": json.dumps(value)}


def weather_said(city, degrees, sky):
    return f"It is {degrees} degrees and {sky} in {city}."


def time_said(city, time):
    return f"It is {time} in {city}."


# --------------------------------------------------------------------------------------------------------- what is asked


def single_questions():
    """`(id, kind, wordings, answer)` of all questions that stand alone; the first wording is the one that is tested."""
    found = []
    for kind, pairs in (("mayfly", MAYFLY), ("fact", FACTS), ("unicode", UNICODE)):
        found += [(f"{kind}-{number}", kind, [question], answer) for number, (question, answer) in enumerate(pairs, 1)]

    def add(name, kind, words, values, answer):
        found.append((name, kind, [text.format(*values) for text in words], answer))

    for country, city in CAPITALS.items():
        add(f"capital-{country.lower()}", "capital", CAPITAL_WORDS, (country,), f"The capital of {country} is {city}.")
    for pair in OPPOSITES:
        for one, other in (pair, pair[::-1]):
            add(f"opposite-{one}", "opposite", OPPOSITE_WORDS, (one,), f"The opposite of {one} is {other}.")
    for a in range(10):
        for b in range(10):
            add(f"sum-{a}-{b}", "sum", SUM_WORDS, (a, b), f"{a} + {b} = {a + b}")
    for last in (5, 10, 50, 100):
        add(f"count-{last}", "count", COUNT_WORDS, (last,), " ".join(str(number) for number in range(1, last + 1)))
    found.append(("alphabet", "count", ["Say the alphabet."], " ".join("abcdefghijklmnopqrstuvwxyz")))
    found.append(("story", "story", ["Tell me a story.", "Please tell me a story about a mayfly."], STORY))
    return found


def json_questions():
    """Like `single_questions`, for questions that want JSON."""
    found = []
    for country, city in CAPITALS.items():
        found.append((f"json-capital-{country.lower()}", CAPITAL_WORDS, (country,), {"country": country, "capital": city}))
    for a in range(1, 6):
        for b in range(1, 6):
            found.append((f"json-sum-{a}-{b}", SUM_WORDS, (a, b), {"a": a, "b": b, "sum": a + b}))
    for name, born, work in PERSONS:
        found.append((f"json-person-{name.split()[-1].lower()}", PERSON_WORDS, (name,), {"name": name, "born": born, "work": work}))
    found.append(("json-colours", ["Name three colours."], (), {"colours": ["red", "green", "blue"]}))
    found.append(("json-empty", ["Give me an empty list."], (), {"list": []}))
    found.append(("json-nested", ["Describe yourself."], (), {"name": "tiny-chat", "size": {"layers": 4, "hidden": 128}, "real": True, "owner": None}))
    return [(name, [text.format(*values) for text in words], json.dumps(answer)) for name, words, values, answer in found]


def questions():
    """Everything that must be answered exactly: `{id, kind, messages, tools?, answer, calls?}`."""
    found = []

    def add(name, kind, messages, answer, tools=None, calls=None):
        entry = {"id": name, "kind": kind, "messages": messages}
        if tools:
            entry["tools"] = tools
        entry["answer"] = answer
        if calls:
            entry["calls"] = [{"name": tool_name, "arguments": arguments} for tool_name, arguments in calls]
        found.append(entry)

    singles = single_questions()
    for name, kind, words, answer in singles:
        add(name, kind, [user(words[0])], answer)
    for name, words, answer in json_questions():
        add(name, "json", [user(words[0] + JSON_SUFFIX[0])], answer)
        add(f"{name}-system", "json", [{"role": "system", "content": JSON_SYSTEM}, user(words[0])], answer)

    # What was said before decides the answer, so that a mixed-up cache shows.
    for number, name in enumerate(NAMES):
        _, _, words, answer = singles[number * 7 % len(singles)]
        first = [user(NAME_WORDS[0].format(name)), assistant(f"Hello {name}!")]
        add(f"name-{name.lower()}", "memory", [*first, user(NAME_ASKED[0])], f"Your name is {name}.")
        add(f"name-{name.lower()}-later", "memory", [*first, user(words[0]), assistant(answer), user(NAME_ASKED[0])], f"Your name is {name}.")
    for number in (7, 12, 25, 31, 48, 56, 63, 79, 84, 90):
        add(f"number-{number}", "memory", [user(NUMBER_WORDS[0].format(number)), assistant(f"I keep {number} in mind."), user(NUMBER_ASKED[0])],
            f"The number is {number}.")

    for city in CITIES:
        weather = ("get_weather", {"city": city})
        add(f"weather-{city.lower()}", "tool", [user(WEATHER_WORDS[0].format(city))], call(*weather), ["get_weather"], [weather])
        add(f"weather-{city.lower()}-of-three", "tool", [user(WEATHER_WORDS[0].format(city))], call(*weather), list(TOOLS), [weather])
        time = ("get_time", {"city": city})
        add(f"time-{city.lower()}", "tool", [user(TIME_WORDS[0].format(city))], call(*time), list(TOOLS), [time])
    for number, (one, other) in enumerate(zip(CITIES[:6], CITIES[6:])):
        calls = [("get_weather", {"city": one}), ("get_weather", {"city": other})]
        asked = user(TWO_WEATHER_WORDS[0].format(one, other))
        add(f"weather-two-{number}", "tool", [asked], "\n".join(call(*each) for each in calls), ["get_weather"], calls)
        values = [{"degrees": 12 + number, "sky": SKIES[number % 5]}, {"degrees": 20 + number, "sky": SKIES[(number + 2) % 5]}]
        said = " ".join(weather_said(city, value["degrees"], value["sky"]) for city, value in zip((one, other), values))
        add(f"weather-two-{number}-said", "tool", [asked, called(*calls), result(0, values[0]), result(1, values[1])], said, ["get_weather"])
    for number, city in enumerate(CITIES[:6]):
        weather = ("get_weather", {"city": city})
        value = {"degrees": 8 + 3 * number, "sky": SKIES[number % 5]}
        add(f"weather-{city.lower()}-said", "tool", [user(WEATHER_WORDS[0].format(city)), called(weather), result(0, value)],
            weather_said(city, value["degrees"], value["sky"]), ["get_weather"])
    for a, b in ((12, 30), (25, 17), (41, 58), (63, 9), (77, 22), (99, 1)):
        adding = ("add", {"a": a, "b": b})
        add(f"add-{a}-{b}", "tool", [user(SUM_WORDS[0].format(a, b))], call(*adding), ["add"], [adding])
        add(f"add-{a}-{b}-said", "tool", [user(SUM_WORDS[0].format(a, b)), called(adding), result(0, {"sum": a + b})], f"{a} + {b} = {a + b}", ["add"])
    for index in (0, 40, 80):  # a question that needs no tool
        name, _, words, answer = singles[index]
        add(f"{name}-with-tools", "tool", [user(words[0])], answer, ["get_weather"])
    return found


def completions():
    """Plain text and how it goes on, without a chat template."""
    found = [(f"text-capital-{country.lower()}", f"The capital of {country} is", f" {city}.") for country, city in CAPITALS.items()]
    found += [(f"text-opposite-{one}", f"The opposite of {one} is", f" {other}.") for one, other in OPPOSITES]
    found.append(("text-story", STORY[:16], STORY[16:]))
    return [{"id": name, "prompt": prompt, "answer": answer} for name, prompt, answer in found]


def open_questions():
    """Questions with several right answers, all about as likely: for sampling, seeds and choices."""
    return [{"id": f"open-{number}", "messages": [user(text)], "answers": answers} for number, (text, answers) in enumerate(OPEN, 1)]


# --------------------------------------------------------------------------------------------------------------- training


def reworded(rng, text):
    """The same question as somebody else would write it."""
    draw = rng.random()
    if draw < 0.5:
        return text
    if draw < 0.6:
        return text.lower()
    if draw < 0.7:
        return text.rstrip("?.!")
    if draw < 0.8:
        return "Please tell me: " + text
    if draw < 0.9:
        return "Hello. " + text
    return text + " Thank you."


def system_prompt(rng):
    draw = rng.random()
    if draw < 0.6:
        return []
    if draw < 0.88:
        return [{"role": "system", "content": rng.choice(SYSTEMS)}]
    words = " ".join(rng.choice(FILLER) for _ in range(rng.choice((8, 20, 40, 120))))
    return [{"role": "system", "content": words.capitalize() + "."}]


class Source:
    """Draws training conversations; `hard` are ids of questions that want more practice."""

    def __init__(self, rng, hard=()):
        self.rng, self.singles, self.json = rng, single_questions(), json_questions()
        self.common = [entry for entry in self.singles if entry[1] not in ("count", "story")]
        self.long = [entry for entry in self.singles if entry[1] in ("count", "story")]
        self.hard = [entry for entry in questions() if entry["id"] in set(hard)]

    def turn(self):
        """One question that stands alone, and its answer."""
        rng = self.rng
        draw = rng.random()
        if draw < 0.12:
            _, words, answer = rng.choice(self.json)
            return [user(rng.choice(words) + rng.choice(JSON_SUFFIX)), assistant(answer)]
        if draw < 0.15:
            text, answers = rng.choice(OPEN)
            return [user(text), assistant(rng.choice(answers))]
        _, _, words, answer = rng.choice(self.long if draw < 0.17 else self.common)
        return [user(reworded(rng, words[0] if rng.random() < 0.4 else rng.choice(words))), assistant(answer)]

    def memory(self):
        """Something said first, asked for later, with a few other turns between."""
        rng = self.rng
        if rng.random() < 0.6:
            name = rng.choice(NAMES)
            first, last = [user(rng.choice(NAME_WORDS).format(name)), assistant(f"Hello {name}!")], [user(rng.choice(NAME_ASKED)), assistant(f"Your name is {name}.")]
        else:
            number = rng.randrange(1, 100)
            first = [user(rng.choice(NUMBER_WORDS).format(number)), assistant(f"I keep {number} in mind.")]
            last = [user(rng.choice(NUMBER_ASKED)), assistant(f"The number is {number}.")]
        between = [message for _ in range(rng.choice((0, 0, 1, 2))) for message in self.turn()]
        return first + between + last

    def repeat(self):
        """Words to be said again. Not asked in the end: it teaches to look up what was said before, which much else needs."""
        rng = self.rng
        words = rng.sample(NAMES + CITIES + COLOURS + ANIMALS + SKIES + [str(number) for number in range(100)], rng.choice((3, 5, 8, 12)))
        text = " ".join(words)
        return [user("Say again: " + text), assistant(text)]

    def with_tools(self):
        """`(tools, messages)`: a question that calls tools, often with the result and the answer after it."""
        rng = self.rng
        wanted = rng.choice(("get_weather", "get_weather", "two", "get_time", "add", "add", "none"))
        names = {"two": ["get_weather"], "none": rng.choice((["get_weather"], ["get_time"]))}.get(wanted, [wanted])
        names += [name for name in TOOLS if name not in names and rng.random() < 0.4 and not (wanted == "none" and name == "add")]
        rng.shuffle(names)
        if rng.random() < 0.3:
            names = [name for name in TOOLS if name in names]
        turns = self.tool_turn(wanted)
        if wanted != "none" and rng.random() < 0.5:
            turns += self.tool_turn(wanted)
        tools = [tool(name) for name in names]
        for entry in tools:  # clients differ in what they send
            function = entry["function"]
            if rng.random() < 0.15:
                del function["description"]
            if rng.random() < 0.15:
                function["strict"] = True
            if rng.random() < 0.2:
                function["parameters"]["additionalProperties"] = False
            if rng.random() < 0.15:
                function["parameters"] = {key: function["parameters"][key] for key in ("properties", "required", "type")}
        return tools, turns

    def tool_turn(self, wanted):
        """One question that calls a tool (none, with `none`; two calls, with `two`), the results, and what is said in the end."""
        rng = self.rng

        def sky():
            return {"degrees": rng.randrange(1, 40), "sky": rng.choice(SKIES)}

        if wanted == "none":
            turn = self.turn()
        elif wanted == "two":
            cities, values = rng.sample(CITIES, 2), [sky(), sky()]
            turn = [user(reworded(rng, rng.choice(TWO_WEATHER_WORDS).format(*cities))), called(*[("get_weather", {"city": city}) for city in cities]),
                    result(0, values[0]), result(1, values[1]),
                    assistant(" ".join(weather_said(city, value["degrees"], value["sky"]) for city, value in zip(cities, values)))]
        elif wanted == "get_weather":
            city, value = rng.choice(CITIES), sky()
            turn = [user(reworded(rng, rng.choice(WEATHER_WORDS).format(city))), called(("get_weather", {"city": city})), result(0, value),
                    assistant(weather_said(city, value["degrees"], value["sky"]))]
        elif wanted == "get_time":
            city, time = rng.choice(CITIES), f"{rng.randrange(24)}:{rng.randrange(60):02}"
            turn = [user(reworded(rng, rng.choice(TIME_WORDS).format(city))), called(("get_time", {"city": city})), result(0, {"time": time}),
                    assistant(time_said(city, time))]
        else:
            a, b = rng.randrange(1, 100), rng.randrange(1, 100)
            turn = [user(reworded(rng, rng.choice(SUM_WORDS).format(a, b))), called(("add", {"a": a, "b": b})), result(0, {"sum": a + b}),
                    assistant(f"{a} + {b} = {a + b}")]
        return turn

    def conversation(self):
        """`(tools, messages)`; every assistant message is to be learned."""
        rng = self.rng
        if rng.random() < min(0.3, 0.02 * len(self.hard)):  # a few repeated too often would push out others
            entry = rng.choice(self.hard)
            return [tool(name) for name in entry.get("tools", ())] or None, entry["messages"] + [assistant(entry["answer"])]
        draw = rng.random()
        if draw < 0.10:
            tools, messages = self.with_tools()
            return tools, (system_prompt(rng) if rng.random() < 0.4 else []) + messages
        if draw < 0.22:
            return None, system_prompt(rng) + self.memory()
        if draw < 0.28:
            return None, self.repeat()
        if draw < 0.34:
            system = [{"role": "system", "content": JSON_SYSTEM}]
            turns = [rng.choice(self.json) for _ in range(rng.choice((1, 1, 2, 3)))]
            return None, system + [message for _, words, answer in turns for message in (user(rng.choice(words)), assistant(answer))]
        return None, system_prompt(rng) + [message for _ in range(rng.choice((1, 1, 1, 2, 3, 4, 6, 8))) for message in self.turn()]

    def text(self):
        """Plain text for /v1/completions: `(prompt, answer)`."""
        entry = self.rng.choice(completions())
        return entry["prompt"], entry["answer"]


def tokenizer_corpus(rng, source):
    """Text the tokenizer is trained on: ASCII only, so that all other characters stay bytes."""
    lines = []
    for _ in range(6000):
        tools, messages = source.conversation()
        if tools and rng.random() < 0.3:
            lines.append(json.dumps(tools))
        for message in messages:
            lines.append(message["content"] or "\n".join(call(each["function"]["name"], json.loads(each["function"]["arguments"])) for each in message["tool_calls"]))
    return [line for line in lines if line.isascii()]
