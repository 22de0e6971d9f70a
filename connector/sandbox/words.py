"""Names for the generated company. Invented; any likeness to a real person or firm is chance."""

from typing import Final

FIRST_NAMES: Final = (
    "Ana", "Ben", "Carla", "David", "Elena", "Farid", "Greta", "Henry", "Ines", "Jonas", "Karin", "Liam", "Mei", "Nadia", "Oscar",
    "Paula", "Quentin", "Rosa", "Samir", "Tessa", "Umar", "Vera", "William", "Ximena", "Yuki", "Zoe", "Anton", "Bianca", "Cédric", "Dóra",
)  # fmt: skip
LAST_NAMES: Final = (
    "Abbott", "Berger", "Castillo", "Dupont", "Eriksen", "Fischer", "García", "Hoffmann", "Ito", "Jensen", "Keller", "Lindqvist", "Moreau",
    "Novak", "O'Brien", "Petrov", "Quinn", "Rossi", "Schmidt", "Tanaka", "Ueda", "Vogel", "Walker", "Xu", "Young", "Zimmermann",
)  # fmt: skip
FIRM_STARTS: Final = (
    "Alder", "Bright", "Cedar", "Delta", "Ember", "Fjord", "Granite", "Harbour", "Indigo", "Juniper", "Kestrel", "Lumen", "Meridian",
    "North", "Onyx", "Pioneer", "Quartz", "River", "Summit", "Tidal", "Umbra", "Vertex", "Willow", "Yarrow", "Zephyr", "Kupfer", "Étoile",
)  # fmt: skip
FIRM_ENDS: Final = (
    "water", "field", "works", "bridge", "stone", "gate", "mark", "line", "point", "forge", "crest", "haven", "path", "light", "wood",
)  # fmt: skip
#: segment -> what such firms are called
SEGMENTS: Final = {
    "Manufacturing": ("Industries", "Fabrik GmbH", "Machines"),
    "Retail": ("Stores", "Retail Group", "Outfitters"),
    "Healthcare": ("Clinics", "Health", "Pharma AG"),
    "Financial Services": ("Capital", "Insurance", "Bank"),
    "Technology": ("Systems", "Software", "Robotics"),
    "Logistics": ("Freight", "Logistics", "Shipping"),
}
#: country -> (currency, team that sells there)
COUNTRIES: Final = {
    "Germany": ("EUR", "Central Europe"),
    "France": ("EUR", "Western Europe"),
    "Spain": ("EUR", "Western Europe"),
    "Netherlands": ("EUR", "Central Europe"),
    "United Kingdom": ("GBP", "Western Europe"),
    "United States": ("USD", "North America"),
    "Canada": ("USD", "North America"),
    "Japan": ("USD", "Asia Pacific"),
    "Australia": ("USD", "Asia Pacific"),
}
#: team -> region
TEAMS: Final = {"Central Europe": "EMEA", "Western Europe": "EMEA", "North America": "AMER", "Asia Pacific": "APAC"}
#: category -> products with list prices in EUR
PRODUCTS: Final = {
    "Analytics": (("Insight Starter", 4_000), ("Insight Pro", 12_000), ("Insight Enterprise", 48_000)),
    "Integration": (("Bridge Connect", 6_500), ("Bridge Hub", 22_000)),
    "Automation": (("Flow Studio", 9_000), ("Flow Fleet", 36_000)),
    "Services": (("Onboarding Package", 2_500), ("Premium Support", 7_500), ("Training Day", 1_200)),
}
#: lead source -> (share of leads, factor on the chance of winning)
SOURCES: Final = {
    "Web": (0.32, 0.9),
    "Referral": (0.14, 1.5),
    "Partner": (0.14, 1.2),
    "Trade Show": (0.12, 0.8),
    "Outbound": (0.18, 0.7),
    "Advertisement": (0.10, 0.6),
}
ROLES: Final = ("Decision Maker", "Economic Buyer", "Evaluator", "Influencer", "Executive Sponsor")
LOST_REASONS: Final = ("Price", "Competitor", "No decision", "Timing", "Missing feature", "Lost contact")
NEXT_STEPS: Final = ("Send proposal", "Schedule demo", "Call champion", "Clarify budget", "Legal review", "Reference call")
SUBJECTS: Final = {
    "call": ("Discovery call", "Follow-up call", "Pricing call"),
    "meeting": ("Product demo", "Workshop", "Executive meeting"),
    "email": ("Send offer", "Answer security questions", "Share references"),
    "task": ("Update forecast", "Prepare contract", "Check budget approval"),
}
#: spend category -> monthly base in EUR
SPEND: Final = {"Advertising": 18_000, "Events": 12_000, "Partners": 7_000, "Content": 5_000, "Sales tools": 6_000}
