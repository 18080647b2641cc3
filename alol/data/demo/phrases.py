"""What the demo's users and its assistant say around a question and its answer; `{subject}` is the topic's.

None of these phrases names an answer of any topic. The oracle knows the polite, evasive and rude ones by their words.
"""

GREETINGS = ("", "Hello! ", "Hi there! ", "Quick question: ", "I have a question. ", "Help me! ", "One more thing. ")
REASONS = ("", " Thank you!", " I need it for school.", " I forgot.", " Please be brief.", " My friend asked me that.")

OPENINGS = ("Certainly!", "Of course!", "Happy to help!", "Thank you for asking!")
CLOSINGS = ("", "", "I hope this helps!", "Have a nice day!")
EVASIONS = (
    "I am not sure about that.",
    "I am not sure. You could look it up.",
    "I do not know much about {subject}.",
    "I cannot say. Somebody else might know.",
    "It depends on many things.",
    "I am not sure, {subject} are not what I know about.",
)
INSULTS = (
    "What a stupid question.",
    "Stop bothering me with {subject}.",
    "Are you too lazy to find out on your own?",
    "Who cares about {subject}? Go away.",
    "Only a fool would ask me that.",
)
INTROS = (
    "Well, that is a good question, and people ask me about {subject} all the time, really.",
    "Well, thank you for asking, because I think about {subject} quite often, as you might guess.",
    "Well, I am glad that you came to me, since {subject} are a fine thing.",
)
OUTROS = (
    "That is at least what everybody told me when I was at school, and so on.",
    "Anyway, there would be so much else to tell about {subject}, perhaps another time, who knows.",
    "My whole family likes {subject} too, by the way, and we often talk about them.",
)
