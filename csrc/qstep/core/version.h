#pragma once
// The version of qstep. CMake and setup.py read this line; change it nowhere else.
#define QSTEP_VERSION "0.1.0"
