"""What the demo's model surely answers, and how."""

import base64

from cluster.demo import showcase
from cluster.demo.lessons.scene import Item, Scene, png

SUM_TEXT, SUM_ANSWER = "How much is 787 plus 895?", "1682"  # with effort high
SUM = [{"role": "user", "content": SUM_TEXT}]
TOOL = showcase.WEATHER
WEATHER = TOOL["function"]
CALL = "Use city Lyon and get weather."
WEATHER_NOW, TOLD = '{"weather": 412}', "Result: weather is 412."
PICTURE = png(Scene(140, (Item(4, "circle", "red", "large"),)))
URL = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
LOOK, SEEN = "Name every shape and its place.", "centre: large red circle"
