"""Hatchling's hook: compiles the CPU kernels into the package, where there is a compiler."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILE = Path("shards/kernels/native/compile.py")


class NativeKernelsHook(BuildHookInterface):
    """Called for wheels and for editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the library into the wheel; without a compiler leave it out."""
        compiler = shlex.split(os.environ.get("CXX", "g++"))
        if sys.platform != "linux" or shutil.which(compiler[0]) is None:
            self.app.display_warning("no C++ compiler for Linux: galerne will compute with torch")
            return
        # The package is not installed yet, so its module is loaded by path.
        spec = importlib.util.spec_from_file_location("compile_kernels", Path(self.root) / COMPILE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        try:
            library = module.compile_library(compiler)
        except (subprocess.CalledProcessError, OSError) as error:
            said = getattr(error, "stderr", error)
            self.app.display_warning(f"galerne will compute with torch:\n{said}")
            return
        build_data["artifacts"].append(f"/{library.relative_to(self.root)}")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
