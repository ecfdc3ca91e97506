"""A page to play with: images appear while they are generated, and parts of them are made anew.

`requests`, `marks`, `studio` and `snippets` are plain functions and need no Gradio; `page` lays
them out in a browser. Nothing below the tasks knows of this room.
"""
