"""The studies that the tests here run on."""

from fixtures import finished, fresh, study, untouched  # noqa: F401
