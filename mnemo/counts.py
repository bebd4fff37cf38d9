"""Whole numbers of a configuration: pydantic's types of these names, with an end.

Nothing that is counted here comes near it, and beyond it products of counts fit neither a tensor nor a float.
"""

from typing import Annotated

from pydantic import Field

LARGEST = 10**12

NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST)]
