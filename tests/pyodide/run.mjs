// Run pytest in CPython for WebAssembly: node run.mjs CHECKOUT PACKAGES PYODIDE [arguments of pytest]
//
// CHECKOUT is this repository, PACKAGES a folder with pytest and the dependencies, PYODIDE the folder of the npm package.
import { pathToFileURL } from "node:url";

const [checkout, packages, pyodide, ...args] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${pyodide}/pyodide.mjs`));
const python = await loadPyodide();
for (const [name, folder] of Object.entries({ checkout, packages })) {
  python.FS.mkdir(`/${name}`);
  python.FS.mount(python.FS.filesystems.NODEFS, { root: folder }, `/${name}`);
}
python.globals.set("args", python.toPy(args));
process.exitCode = python.runPython(`
import os, sys
sys.path[:0] = ["/checkout", "/packages"]
sys.dont_write_bytecode = True
os.chdir("/checkout")

# WebAssembly has no sockets and no processes, and so Trio does not support it. Trio can be imported as on Linux all the
# same, which is enough here: the tests of the protocol do no I/O.
import select
select.epoll = type("epoll", (), {})
os.pidfd_open = None
platform, sys.platform = sys.platform, "linux"
import trio, trio.testing
sys.platform = platform

# cryptography is no pure Python. It makes the certificates of other tests.
import types
sys.modules["trustme"] = types.ModuleType("trustme")

import pytest
print(sys.version)
int(pytest.main(["-p", "no:cacheprovider", *args]))
`);
