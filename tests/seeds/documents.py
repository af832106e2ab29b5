"""What the five documents contain, counted heading by heading, and which script and test runs each example.

`HEADINGS` is the count, made from the documents: for every heading the number of code blocks, and the
number of runnable statements outside code (formulas with values, worked steps, claims about behaviour).
`EXAMPLES` has one row for each. `test_every_example.py` compares the two, so that an example without a
test, or a row without an example, is a failure.
"""

from __future__ import annotations

from typing import NamedTuple


class Heading(NamedTuple):
    title: str
    code: int = 0
    stated: int = 0


class Example(NamedTuple):
    heading: str
    kind: str  # "code" or "stated"
    opening: str  # first telling line of the block, or what is stated
    runs: str  # script.function in examples/seeds
    test: str  # in the document's test file


TEST_FILES = {
    "Lecture 06 notes": "test_lecture_notes",
    "Lecture 06 slides": "test_lecture_slides",
    "Autograd deck": "test_autograd_deck",
    "Chapter 4": "test_autograd_chapter",
    "The Magic of PyTorch": "test_magic_of_pytorch",
}

HEADINGS: dict[str, tuple[Heading, ...]] = {
    "Lecture 06 notes": (
        Heading("1. Introduction"),
        Heading("2. PyTorch Resources"),
        Heading("3. Computation Graphs"),
        Heading("Chain Rule on Graphs", stated=1),
        Heading("Example: ReLU", stated=2),
        Heading("Common Graph Structures", stated=3),
        Heading("4. Automatic Differentiation in PyTorch"),
        Heading("Reverse vs. Forward Mode", stated=2),
        Heading("Autograd Workflow", code=1),
        Heading("5. PyTorch API: Model & Training Loop"),
        Heading("Define a Model (nn.Module)", code=1),
        Heading("Create Components", code=1),
        Heading("Training Loop Skeleton", code=1),
        Heading("Good Practices", stated=3),
        Heading("6. Debugging & Practical Notes", stated=3),
        Heading("7. Worked Scalar Example: ReLU Neuron", stated=3),
        Heading("8. Summary"),
    ),
    "Lecture 06 slides": (
        Heading("PyTorch"),
        Heading("Installing PyTorch", code=1),
        Heading("Many useful tutorials"),
        Heading("Other resources"),
        Heading("Computation graphs: ReLU", stated=6),
        Heading("Computation graphs: Single-path", stated=1),
        Heading("Computation graphs: Weight-Sharing", stated=1),
        Heading("Computation graphs: Fully-Connected Layer", stated=1),
        Heading("Automatic Differentiation in PyTorch", stated=1),
        Heading("PyTorch Usage: Step 1 (Definition)", code=1),
        Heading("PyTorch Usage: Step 2 (Creation)", code=1),
        Heading("PyTorch Usage: Step 3 (Training)", code=3, stated=4),
        Heading("Simple “print” statements don’t work for debugging", code=3),
    ),
    "Autograd deck": (
        Heading("Why Do We Need Gradients?", code=1),
        Heading("The Learning Process", stated=1),
        Heading("Gradients Tell Us", stated=1),
        Heading("Enabling Gradient Tracking", code=1),
        Heading("What Gets Tracked?", code=1),
        Heading("Only for Floats", code=1),
        Heading("Simple Example", code=1),
        Heading("With Multiple Variables", code=1),
        Heading("Chain Rule in Action", code=1),
        Heading("The Computation Graph", code=3),
        Heading("The Accumulation Problem", code=1),
        Heading("The Solution: zero_grad()", code=1, stated=1),
        Heading("torch.no_grad() Context", code=1),
        Heading("Why Use no_grad()?", stated=1),
        Heading("detach()", code=1),
        Heading("torch.inference_mode()", code=1),
        Heading("Autograd: Putting It Together", code=1),
    ),
    "Chapter 4": (
        Heading("What is Autograd?"),
        Heading("Why Autograd Matters"),
        Heading("Enabling Gradient Tracking", code=1),
        Heading("Basic Example", code=1),
        Heading("Multi-Step Computation", code=1),
        Heading("Vector Gradients", code=1),
        Heading("Non-Scalar Backward Pass", code=1, stated=1),
        Heading("Gradient Accumulation", code=1),
        Heading("No Gradient Context", code=1),
        Heading("Detach", code=1),
        Heading("Set Gradient Enabled", code=1),
        Heading("Understanding the Graph", code=1),
        Heading("Leaf Nodes vs Non-Leaf Nodes", code=1),
        Heading("Retaining Gradients for Non-Leaf Nodes", code=1),
        Heading("Simple Linear Regression", code=1, stated=1),
        Heading("Visualizing Gradient Descent", code=1),
        Heading("Second Derivatives", code=1),
        Heading("Pitfall 1: In-place Operations", code=1, stated=2),
        Heading("Pitfall 2: Forgetting to Zero Gradients", code=1),
        Heading("Pitfall 3: Multiple Backward Passes", code=1, stated=1),
        Heading("Custom Autograd Function", code=1, stated=1),
        Heading("Exercise 1: Basic Gradients", code=1),
        Heading("Exercise 2: Training Loop Pattern", code=1),
        Heading("Optimization Tips", code=1, stated=3),
        Heading("Next Steps"),
        Heading("Key Takeaways"),
    ),
    "The Magic of PyTorch": (
        Heading("1. Introduction: Who computes the gradients?", stated=2),
        Heading("2. The Computational Graph", stated=1),
        Heading("3. Forward vs Reverse Mode", stated=1),
        Heading("Forward Mode", stated=1),
        Heading("Reverse Mode (Backpropagation)", stated=2),
        Heading("4. Python: Autograd from Scratch", code=1, stated=3),
        Heading("5. Interactive Visualizer: Graph Builder", stated=2),
        Heading("6. Summary"),
    ),
}


def rows(text: str) -> tuple[Example, ...]:
    """Examples written as `## heading`, below it `kind: opening`, below that `    script.function test`."""
    made: list[Example] = []
    heading = kind = opening = ""
    for line in filter(None, text.splitlines()):
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("    "):
            runs, test = line.split()
            made.append(Example(heading, kind, opening, runs, test))
        else:
            kind, opening = line.split(": ", 1)
    return tuple(made)


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "Lecture 06 notes": rows("""
## Chain Rule on Graphs
stated: x = f(t), y = g(x), L = h(y) and the product of derivatives
    graph_structures.chain_rule test_chain_rule_on_graphs
## Example: ReLU
stated: ReLU(z) = max(0, z) and its derivative, 0 at z <= 0
    relu_neuron.relu_and_derivative test_relu_and_its_derivative
stated: gradients flow only through the active branch (v > 0)
    relu_neuron.inactive_neuron test_gradients_flow_only_through_the_active_branch
## Common Graph Structures
stated: single-path chains
    graph_structures.single_path test_single_path_chain
stated: weight sharing: partials accumulate
    graph_structures.weight_sharing test_weight_sharing_accumulates
stated: fully connected layer y = s(W x + b)
    graph_structures.fully_connected_layer test_fully_connected_layer
## Reverse vs. Forward Mode
stated: reverse mode: a scalar loss of many parameters
    forward_reverse_cost.costs test_reverse_mode_is_for_many_parameters
stated: forward mode: fewer inputs than outputs
    forward_reverse_cost.costs test_forward_mode_is_for_few_inputs
## Autograd Workflow
code: y = x**2 + 3*x  # 7
    first_gradients.minimal test_minimal_example
## Define a Model (nn.Module)
code: class Net(nn.Module)
    linear_relu_net.Net test_net
## Create Components
code: criterion = torch.nn.MSELoss()
    linear_relu_net.train_torch test_components_and_training_loop
## Training Loop Skeleton
code: for epoch in range(num_epochs)
    linear_relu_net.train_engine test_components_and_training_loop
## Good Practices
stated: zero_grad() every iteration
    linear_relu_net.train_engine test_zero_grad_prevents_accumulation
stated: model.eval() and torch.no_grad() for evaluation
    linear_relu_net.evaluate test_evaluation_mode_records_nothing
stated: the same device
    linear_relu_net.train_torch test_same_device
## 6. Debugging & Practical Notes
stated: inspect shapes, values and .grad
    value_engine.labelled_graph test_shapes_values_and_gradients_can_be_inspected
stated: visualise graphs
    value_engine.labelled_graph test_graph_can_be_visualised
stated: check the learning rate if the loss diverges
    linear_fit.descend_parabola test_learning_rate_decides_divergence
## 7. Worked Scalar Example: ReLU Neuron
stated: forward: u = 6, v = 7, a = 7
    relu_neuron.forward_pass test_worked_relu_neuron_forward
stated: backward: the local derivatives
    relu_neuron.local_derivatives test_worked_relu_neuron_local_derivatives
stated: thus da/dw = 3, da/db = 1
    relu_neuron.backward_pass test_worked_relu_neuron_gradients
"""),
    "Lecture 06 slides": rows("""
## Installing PyTorch
code: import torch; torch.__version__
    torch.__version__ test_torch_has_a_version
## Computation graphs: ReLU
stated: the nodes u and v of a(x, w, b)
    relu_neuron.forward_pass test_relu_nodes
stated: da/dv = 1
    relu_neuron.local_derivatives test_relu_local_derivatives
stated: dv/db = 1
    relu_neuron.local_derivatives test_relu_local_derivatives
stated: du/dw = 3
    relu_neuron.local_derivatives test_relu_local_derivatives
stated: da/db = dv/db da/dv = 1
    relu_neuron.backward_pass test_relu_chain_rule
stated: da/dw = 3 * 1 * 1 = 3
    relu_neuron.backward_pass test_relu_chain_rule
## Computation graphs: Single-path
stated: dl/dw1, univariate chain rule
    graph_structures.single_path test_single_path
## Computation graphs: Weight-Sharing
stated: dl/dw1 = upper path + lower path
    graph_structures.weight_sharing test_weight_sharing
## Computation graphs: Fully-Connected Layer
stated: dl/dw11 over both units
    graph_structures.fully_connected_paths test_fully_connected_paths
## Automatic Differentiation in PyTorch
stated: the linked notebook: the ReLU neuron with the grad function
    relu_neuron.with_grad_function test_grad_function
## PyTorch Usage: Step 1 (Definition)
code: class MultilayerPerceptron(torch.nn.Module)
    multilayer_perceptron.EngineMultilayerPerceptron test_perceptron_definition
## PyTorch Usage: Step 2 (Creation)
code: torch.manual_seed(random_seed)
    multilayer_perceptron.create test_perceptron_creation_is_seeded
## PyTorch Usage: Step 3 (Training)
code: cost = F.cross_entropy(probas, targets)
    multilayer_perceptron.wrong_inputs_to_cross_entropy test_cross_entropy_of_the_wrong_output
code: loss = F.cross_entropy(logits, targets), annotated
    multilayer_perceptron.train_engine test_perceptron_training_agrees_step_by_step
code: the same, model.eval() and accuracy
    multilayer_perceptron.train_torch test_perceptron_training_agrees_step_by_step
stated: don't run model.forward(x) directly
    forward_hook.hook_skipped_by_forward test_hooks_run_on_call_and_not_on_forward
stated: gradients accumulate, so zero them
    multilayer_perceptron.train_torch test_perceptron_gradients_are_zeroed_and_recorded_only_in_training
stated: w := w + learning_rate x gradient
    multilayer_perceptron.sgd_step_direction test_sgd_steps_against_the_gradient
stated: no_grad builds no graph in the background
    multilayer_perceptron.EngineMultilayerPerceptron test_perceptron_gradients_are_zeroed_and_recorded_only_in_training
## Simple “print” statements don’t work for debugging
code: model.net
    forward_hook.TorchModel test_printed_model
code: model.net[2].register_forward_hook(hook)
    forward_hook.collect test_forward_hook_collects_the_output
code: print(outputs)
    forward_hook.collect test_collected_output_is_rectified
"""),
    "Autograd deck": rows("""
## Why Do We Need Gradients?
code: Input ---> [ Weights ] ---> Prediction ---> Loss
    linear_fit.learning_loop test_learning_process
## The Learning Process
stated: predict, loss, gradients, update, repeat
    linear_fit.learning_loop test_learning_process
## Gradients Tell Us
stated: direction and magnitude
    linear_fit.learning_loop test_gradient_gives_direction_and_magnitude
## Enabling Gradient Tracking
code: a = torch.tensor([1.0, 2.0, 3.0])
    tracking.enabling test_enabling_gradient_tracking
## What Gets Tracked?
code: y = x ** 2; z = y * 3
    tracking.what_is_tracked test_what_gets_tracked
## Only for Floats
code: t = torch.tensor([1, 2], requires_grad=True)
    tracking.only_floats test_only_for_floats
## Simple Example
code: y = x ** 2  # 4
    first_gradients.square_at_two test_simple_example
## With Multiple Variables
code: y = x * w  # 3, 2
    first_gradients.product test_multiple_variables
## Chain Rule in Action
code: y = (x ** 2 + 1) ** 3  # 300
    first_gradients.chain_rule test_chain_rule_in_action
## The Computation Graph
code: z = x * y; out = z.sum()
    first_gradients.computation_graph test_computation_graph
code: x, y -> z = x*y -> out = sum
    first_gradients.computation_graph test_values_flow_down_the_graph
code: dout/dz = 1 -> dz/d(x,y) -> x.grad, y.grad
    first_gradients.computation_graph test_gradients_flow_up_the_graph
## The Accumulation Problem
code: tensor([16.0]) - not 12!
    accumulation.adding_up test_accumulation_problem
## The Solution: zero_grad()
code: x.grad.zero_()  # or x.grad = None
    accumulation.clearing test_zero_grad_solution
stated: accumulation across mini-batches
    accumulation.mini_batches test_accumulation_across_mini_batches
## torch.no_grad() Context
code: with torch.no_grad()
    tracking.inside_no_grad test_no_grad_context
## Why Use no_grad()?
stated: no graph construction
    tracking.inside_no_grad test_no_grad_builds_no_graph
## detach()
code: y_detached = y.detach()
    tracking.detached test_detach
## torch.inference_mode()
code: with torch.inference_mode()
    tracking.inference_mode test_inference_mode
## Autograd: Putting It Together
code: learning y = 2x + 1
    linear_fit.one_step test_putting_it_together
"""),
    "Chapter 4": rows("""
## Enabling Gradient Tracking
code: x = torch.tensor([2.0, 3.0], requires_grad=True)
    tracking.enabling_with_leaf test_enabling_gradient_tracking
## Basic Example
code: y = x², 6 at 3
    first_gradients.square_at_three test_basic_example
## Multi-Step Computation
code: w = a * x² + 5
    first_gradients.multi_step test_multi_step_computation
## Vector Gradients
code: y = (x ** 2).sum()
    first_gradients.vector test_vector_gradients
## Non-Scalar Backward Pass
code: y.backward(gradient)
    first_gradients.non_scalar test_non_scalar_backward
stated: a gradient argument is needed
    first_gradients.non_scalar_without_cotangent test_non_scalar_needs_a_gradient_argument
## Gradient Accumulation
code: three backward passes: 6, 33, 0, 6
    accumulation.three_passes test_gradient_accumulation
## No Gradient Context
code: with torch.no_grad(): z = x ** 2
    tracking.inside_no_grad test_no_gradient_context
## Detach
code: y_detached = y.detach(); # w.backward()
    tracking.backward_through_detached test_detach
## Set Gradient Enabled
code: torch.set_grad_enabled(False)
    tracking.switched test_set_gradient_enabled
## Understanding the Graph
code: y = w * x + b; z = y ** 2
    tracking.linear_then_square test_understanding_the_graph
## Leaf Nodes vs Non-Leaf Nodes
code: y = x * 2; z = y + 3
    tracking.leaves test_leaf_and_non_leaf
## Retaining Gradients for Non-Leaf Nodes
code: y.retain_grad()
    tracking.retained test_retaining_gradients
## Simple Linear Regression
code: torch.manual_seed(42)
    linear_fit.linear_regression test_linear_regression
stated: true: w = 2, b = 1
    linear_fit.closed_form test_linear_regression_arrives
## Visualizing Gradient Descent
code: x = -4, 20 steps of 0.1
    linear_fit.descend_parabola test_gradient_descent_on_a_parabola
## Second Derivatives
code: y.backward(create_graph=True)
    pitfalls.second_derivative test_second_derivatives
## Pitfall 1: In-place Operations
code: x = x + 1
    pitfalls.new_tensor_instead test_in_place_pitfall_new_tensor
stated: x += 1 is an error
    pitfalls.in_place_on_leaf test_in_place_pitfall_is_an_error
stated: error during backward: a saved tensor overwritten
    pitfalls.overwritten_saved_tensor test_in_place_pitfall_saved_tensor
## Pitfall 2: Forgetting to Zero Gradients
code: iteration 1, 2, 3
    pitfalls.forgetting_to_zero test_forgetting_to_zero_pitfall
## Pitfall 3: Multiple Backward Passes
code: y.backward(retain_graph=True)
    pitfalls.two_backwards test_multiple_backward_pitfall
stated: need retain_graph=True
    pitfalls.two_backwards_without_retaining test_multiple_backward_without_retaining
## Custom Autograd Function
code: class MySquare(Function)
    custom_function.custom_square test_custom_function
stated: gradient: d(x²)/dx = 2x
    custom_function.inside_a_larger_graph test_custom_function_in_a_larger_graph
## Exercise 1: Basic Gradients
code: f = x**2 * y + y**3
    first_gradients.exercise test_exercise_basic_gradients
## Exercise 2: Training Loop Pattern
code: output = w * 2; loss = output ** 2
    linear_fit.training_pattern test_exercise_training_loop
## Optimization Tips
code: 1. torch.no_grad() for inference
    optimization_tips.inference test_tip_no_grad_for_inference
stated: 2. loss.detach().item()
    optimization_tips.detached_loss test_tip_detached_loss_value
stated: 3. gradient checkpointing
    optimization_tips.checkpointed test_tip_checkpointing
stated: 4. clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimization_tips.clipped test_tip_gradient_clipping
"""),
    "The Magic of PyTorch": rows("""
## 1. Introduction: Who computes the gradients?
stated: not numerical differentiation: slow and imprecise
    three_ways.by_differences test_not_numerical_differentiation
stated: not symbolic differentiation: expression explosion
    three_ways.symbolic_growth test_not_symbolic_differentiation
## 2. The Computational Graph
stated: y = (x + w) b, traversed backwards
    graph_builder.printed_graph test_computational_graph
## 3. Forward vs Reverse Mode
stated: two ways to the same derivatives
    forward_reverse_cost.problem test_both_modes_compute_the_jacobian
## Forward Mode
stated: cost proportional to the number of inputs
    forward_reverse_cost.costs test_forward_mode_costs_one_pass_per_input
## Reverse Mode (Backpropagation)
stated: cost proportional to the number of outputs
    forward_reverse_cost.costs test_reverse_mode_costs_one_pass_per_output
stated: all gradients in one pass
    forward_reverse_cost.million_gradients test_all_gradients_in_one_pass
## 4. Python: Autograd from Scratch
code: class Value and its usage: y = 4, dy/dx = -3
    value_engine.with_value test_autograd_from_scratch
stated: label='x', a.label = 'a'
    value_engine.labelled_graph test_labels_and_printout_of_the_engine
stated: self.grad += ...: a value used twice
    value_engine.shared_value test_shared_value_gets_both_gradients
stated: topological sort by recursion
    value_engine.deep_chain test_deep_graph_needs_a_loop
## 5. Interactive Visualizer: Graph Builder
stated: forward pass: 2+1 = 3, 3 x 3 = 9
    graph_builder.forward_steps test_graph_builder_forward
stated: backward pass: 1, then a and b
    graph_builder.backward_steps test_graph_builder_backward
"""),
}
