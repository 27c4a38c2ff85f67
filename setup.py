"""What pyproject.toml cannot say: the wheel holds the contract's .proto files beside the modules made from them."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONTRACT = Path("proto")


class BuildWithContract(build_py):
    """Adds ``proto/gloss/v1/*.proto`` to the package `gloss.v1`, and to source distributions."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if not self.editable_mode:  # there `gloss.protos` finds them where they are
            for source, target in self._contract().items():
                self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        """What a source distribution needs."""
        return [*super().get_source_files(), *self._contract()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What is built."""
        return [*super().get_outputs(include_bytecode), *self._contract().values()]

    def _contract(self) -> dict[str, str]:
        """Each source's place in the build."""
        sources = sorted(CONTRACT.glob("gloss/v1/*.proto"))
        return {str(source): str(Path(self.build_lib) / source.relative_to(CONTRACT)) for source in sources}


setup(cmdclass={"build_py": BuildWithContract})
