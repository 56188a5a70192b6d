// SPDX-License-Identifier: Apache-2.0

// This file gives the identifiers of Windows's services their names back. An
// identifier is a hash of the name, so only names that are listed are found.

package policy

import (
	"fmt"
	"sync"

	"github.com/wfpebpf/wfpebpf/filter"
)

// windowsServices are short names of services that firewall rules name.
var windowsServices = []string{
	"AJRouter", "ALG", "AppIDSvc", "Appinfo", "AppMgmt", "AppReadiness", "AppXSvc", "AudioEndpointBuilder", "Audiosrv",
	"AxInstSV", "BDESVC", "BFE", "BITS", "BrokerInfrastructure", "Browser", "BTAGService", "BthAvctpSvc", "bthserv",
	"camsvc", "CDPSvc", "CDPUserSvc", "CertPropSvc", "ClipSVC", "COMSysApp", "CoreMessagingRegistrar", "CryptSvc",
	"CscService", "DcomLaunch", "dcsvc", "defragsvc", "DeviceAssociationService", "DeviceInstall", "DevQueryBroker",
	"Dhcp", "diagnosticshub.standardcollector.service", "diagsvc", "DiagTrack", "DialogBlockingService",
	"DispBrokerDesktopSvc", "DisplayEnhancementService", "DmEnrollmentSvc", "dmwappushservice", "DNS", "Dnscache",
	"DoSvc", "dot3svc", "DPS", "DsmSvc", "DsSvc", "DusmSvc", "EapHost", "EFS", "embeddedmode", "EntAppSvc", "EventLog",
	"EventSystem", "Fax", "fdPHost", "FDResPub", "fhsvc", "FontCache", "FrameServer", "gpsvc", "GraphicsPerfSvc",
	"hidserv", "HomeGroupListener", "HomeGroupProvider", "HvHost", "icssvc", "IKEEXT", "InstallService", "iphlpsvc",
	"IpxlatCfgSvc", "KeyIso", "KtmRm", "LanmanServer", "LanmanWorkstation", "lfsvc", "LicenseManager", "lltdsvc",
	"lmhosts", "LSM", "LxpSvc", "MapsBroker", "McpManagementService", "mpssvc", "MSDTC", "MSiSCSI", "msiserver",
	"MSMQ", "NaturalAuthentication", "NcaSvc", "NcbService", "NcdAutoSetup", "Netlogon", "Netman", "netprofm",
	"NetSetupSvc", "NetTcpPortSharing", "NgcCtnrSvc", "NgcSvc", "NlaSvc", "nsi", "p2pimsvc", "p2psvc", "PcaSvc",
	"PeerDistSvc", "PerfHost", "PhoneSvc", "pla", "PlugPlay", "PNRPAutoReg", "PNRPsvc", "PolicyAgent", "Power",
	"PrintNotify", "ProfSvc", "PushToInstall", "QWAVE", "RasAuto", "RasMan", "RemoteAccess", "RemoteRegistry",
	"RetailDemo", "RmSvc", "RpcEptMapper", "RpcLocator", "RpcSs", "SamSs", "SCardSvr", "ScDeviceEnum", "Schedule",
	"SCPolicySvc", "SDRSVC", "seclogon", "SecurityHealthService", "SEMgrSvc", "SENS", "Sense", "SensorDataService",
	"SensorService", "SensrSvc", "SessionEnv", "SgrmBroker", "SharedAccess", "SharedRealitySvc", "ShellHWDetection",
	"shpamsvc", "simptcp", "smphost", "SmsRouter", "SNMP", "SNMPTRAP", "spectrum", "Spooler", "sppsvc", "SSDPSRV",
	"ssh-agent", "sshd", "SstpSvc", "StateRepository", "stisvc", "StorSvc", "svsvc", "swprv", "SysMain",
	"SystemEventsBroker", "TabletInputService", "TapiSrv", "TermService", "TextInputManagementService", "Themes",
	"TieringEngineService", "TimeBrokerSvc", "TokenBroker", "TrkWks", "TrustedInstaller", "tzautoupdate",
	"UevAgentService", "UI0Detect", "UmRdpService", "upnphost", "UserManager", "UsoSvc", "VacSvc", "VaultSvc", "vds",
	"vmicguestinterface", "vmicheartbeat", "vmickvpexchange", "vmicrdv", "vmicshutdown", "vmictimesync",
	"vmicvmsession", "vmicvss", "VSS", "W32Time", "W3SVC", "WaaSMedicSvc", "WalletService", "WarpJITSvc", "wbengine",
	"WbioSrvc", "Wcmsvc", "wcncsvc", "WdiServiceHost", "WdiSystemHost", "WdNisSvc", "WebClient", "Wecsvc",
	"WEPHOSTSVC", "wercplsupport", "WerSvc", "WFDSConMgrSvc", "WiaRpc", "WinDefend", "WinHttpAutoProxySvc", "Winmgmt",
	"WinRM", "WINS", "wisvc", "WlanSvc", "wlidsvc", "wlpasvc", "WManSvc", "wmiApSrv", "WMPNetworkSvc", "workfolderssvc",
	"WpcMonSvc", "WPDBusEnum", "WpnService", "wscsvc", "WSearch", "wuauserv", "WwanSvc", "XblAuthManager",
	"XblGameSave", "XboxGipSvc", "XboxNetApiSvc",
}

var serviceNames = sync.OnceValue(func() map[filter.SID]string {
	m := make(map[filter.SID]string, len(windowsServices))
	for _, name := range windowsServices {
		m[filter.ServiceSID(name)] = name
	}
	return m
})

// sidText shows an identifier, with the service's name where it is known.
func sidText(s filter.SID) string {
	if name, ok := serviceNames()[s]; ok {
		return fmt.Sprintf("service %s (%s)", name, s)
	}
	return string(s)
}
