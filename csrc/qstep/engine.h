#pragma once
// The integer side: load a checkpoint and run it. Needs no torch.
#include "qstep/core/error.h"
#include "qstep/engine/network.h"
#include "qstep/ir/builder.h"
#include "qstep/ir/checkpoint.h"
#include "qstep/kernels/isa.h"
