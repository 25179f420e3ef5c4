#pragma once
// Everything of the training side: functions, quantizers, layers, conversion. The integer side alone, without torch: qstep/engine.h.
#include "qstep/core/version.h"
#include "qstep/engine.h"
#include "qstep/graph/convert.h"
#include "qstep/methods/functional.h"
#include "qstep/nn/layers.h"
#include "qstep/nn/parameter_groups.h"
#include "qstep/nn/qconfig.h"
#include "qstep/optim/inq_schedule.h"
