"""What the lessons share; `setup` is in the first cell of every notebook."""

from facelab.course.lesson import setup

__all__ = ["setup"]
