package app

import (
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// demos are the demo companies' data.
var demos = map[tenant.Slug]demoSet{
	"acme": {
		customers: []tenantsql.ImportCustomersParams{
			{Name: "Road Runner Deliveries", Email: "accounts@roadrunner.example"},
			{Name: "Coyote Engineering", Email: "wile@coyote.example"},
			{Name: "Tumbleweed Hotel", Email: "office@tumbleweed.example"},
			{Name: "Mesa Verde Quarry", Email: "invoices@mesaverde.example"},
			{Name: "Painted Desert Tours", Email: "hello@painteddesert.example"},
		},
		invoices: []demoInvoice{
			{customer: 0, currency: "USD", age: 75, paid: []int64{129_600}, lines: []demoLine{
				{"Giant rubber band, 4 m", 12_000, 8_900},
				{"Delivery to the canyon", 1_000, 22_800},
			}},
			{customer: 1, currency: "USD", age: 52, paid: []int64{100_000}, lines: []demoLine{
				{"Rocket skates, pair", 2_000, 149_900},
				{"Fitting, by the hour", 3_500, 6_400},
			}},
			{customer: 2, currency: "USD", age: 33, void: true, lines: []demoLine{
				{"Portable hole, small", 1_000, 49_900},
			}},
			{customer: 2, currency: "USD", age: 20, paid: []int64{40_000, 39_623}, lines: []demoLine{
				{"Anvil, 50 kg", 3_000, 19_950},
				{"Rope, by the metre", 45_500, 395},
				{"Crate", 1_000, 1_800},
			}},
			{customer: 3, currency: "USD", age: 9, lines: []demoLine{
				{"Dehydrated boulders, box of 12", 4_000, 31_500},
				{"Water, by the litre", 180_250, 12},
			}},
			{customer: 4, currency: "EUR", age: 3, lines: []demoLine{
				{"Tunnel paint, by the litre", 7_125, 2_499},
			}},
			{customer: 1, currency: "USD", age: -1, lines: []demoLine{
				{"Earthquake pills, jar", 2_000, 12_900},
				{"Instruction manual", 1_000, 0},
			}},
		},
	},
	"globex": {
		customers: []tenantsql.ImportCustomersParams{
			{Name: "Springfield Power", Email: "plant@springfieldpower.example"},
			{Name: "Cypress Creek Schools", Email: "bursar@cypresscreek.example"},
			{Name: "Hammock District", Email: "orders@hammocks.example"},
			{Name: "North Shore Observatory", Email: "admin@northshore.example"},
		},
		invoices: []demoInvoice{
			{customer: 0, currency: "EUR", age: 61, paid: []int64{1_438_500}, lines: []demoLine{
				{"Consulting, by the day", 10_500, 137_000},
			}},
			{customer: 1, currency: "EUR", age: 44, lines: []demoLine{
				{"Weather balloon", 6_000, 21_400},
				{"Helium, by the cubic metre", 33_333, 1_175},
			}},
			{customer: 2, currency: "EUR", age: 12, paid: []int64{50_000}, lines: []demoLine{
				{"Hammock, double", 25_000, 7_890},
			}},
			{customer: 3, currency: "GBP", age: 5, lines: []demoLine{
				{"Telescope service", 1_000, 88_000},
				{"Mirror coating, by the square metre", 2_345, 41_999},
			}},
			{customer: 3, currency: "GBP", age: -1, lines: []demoLine{
				{"Dome motor", 2_000, 154_900},
			}},
		},
	},
}
