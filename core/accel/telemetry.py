"""What the runtimes would send home, switched off before they are imported: nothing leaves the machine."""

from __future__ import annotations

import os
import sys

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime 1.32 keeps a device id and sends usage events unless this is set at import
    "NNCF_CI": "1",  # NNCF sends usage to Google Analytics otherwise (nncf/definitions.py)
}


def switch_off() -> None:
    """Call before a runtime is imported for the first time; children of this process inherit the switches."""
    os.environ.update(SWITCHES)
    # OpenVINO opens a session with Google Analytics as it is imported and has no switch but `CI`, which means other things too.
    # It does without where the package is absent (openvino/tools/ovc/telemetry_stub.py), so it is made to look so.
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
