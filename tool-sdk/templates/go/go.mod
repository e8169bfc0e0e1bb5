module wit_component

go 1.25

require go.bytecodealliance.org/pkg v0.2.3

// `mcpp build` writes it, of the version that its bindings need.
replace go.bytecodealliance.org/pkg => ./wit_runtime
