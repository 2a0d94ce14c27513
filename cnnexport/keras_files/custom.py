"""A user's own Python file: the layers and functions that a model file names and Keras lacks."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from cnnexport import files
from cnnexport.errors import InputError
from cnnexport.text import one_line


def import_custom_objects(path: Path) -> dict[str, Any]:
    """Import the user's Python file, so that what it registers is known, and return its layers and functions.

    Raises:
        InputError: the file does not exist, or what it raised.
    """
    import keras

    path = Path(path)
    if not files.exists(path):
        raise InputError(f"the custom objects' file {path} does not exist; give a Python file")
    files.regular(path, "give a Python file")
    name = f"_cnnexport_custom_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    loader = importlib.machinery.SourceFileLoader(name, str(path.resolve()))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))  # so that it finds its neighbours, as when it is run
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{path.name} cannot be imported: {type(error).__name__}: {one_line(error)}; it must run by "
                         f"itself, as `python {path.name}`") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == name
            and (inspect.isfunction(value) or (isinstance(value, type) and issubclass(value, keras.layers.Layer)))}
